"""A conversation of several devices with the server of examples/quickstart, in which everything is checked."""
import json
import os
import subprocess
import tempfile
import time

from client import CHANGES, REGISTERS, REMOVES, Device, decode
from client_link import Link, Refused


class Server:
    """The process of the quickstart server."""

    def __init__(self, program, addr, db, log):
        self.program, self.addr, self.db, self.log = program, addr, db, log
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.program, "-serve", "-addr", self.addr, "-db", self.db], stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        self.addr = self.process.stdout.readline().strip()
        if not self.addr:
            self.kill()
            raise EOFError("the server does not start")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def check(what, good=True):
    print("ok  " if good else "FAIL", what)
    if not good:
        raise AssertionError(what)


def kinds():
    """Holds the tables of client.py against kinds.md."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "kinds.md"), encoding="utf-8") as page:
        rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page if line.startswith("| `")]
    registers = {row[0]: (row[9].split(" = ")[0], int(row[9].split(" = ")[1])) for row in rows if row[9]}
    check("kinds that set registers are those of kinds.md", registers == REGISTERS)
    check("so are those that change messages", {row[0] for row in rows if row[10]} == set(CHANGES))
    check("and those that take them away", {row[0] for row in rows if row[10] in ("remove", "hide")} == set(REMOVES))


class Talk:
    """Two people with two devices each. Their names are new each time, so that a server may be talked to again."""

    def __init__(self, addr, folder):
        self.addr, self.folder, self.run = addr, folder, format(time.time_ns(), "x")
        self.ann, self.bob = "ann-" + self.run, "bob-" + self.run
        self.conversation = f"direct:{self.ann}:{self.bob}"
        self.sent, self.links = [], {}
        for name, account, platform in (("phone", self.ann, "ios"), ("laptop", self.ann, "macos"),
                                        ("mobile", self.bob, "android"), ("browser", self.bob, "web")):
            self.open(name, account, platform)

    def open(self, name, account, platform):
        link = Link(Device(os.path.join(self.folder, name), account), self.addr)
        link.log_in(platform)
        self.links[name] = link.attach()
        return link

    def resume(self, name):
        """Comes back as a process that has died does: with what is stored, on a new connection."""
        device = self.links[name].device
        self.links[name].drop()
        device.load()
        self.links[name] = Link(device, self.addr)
        return self.links[name].attach()

    def send(self, text):
        """Ann's phone writes to Bob."""
        answer = self.links["phone"].act("send", to=self.bob, clientId=f"{self.run} {text}", text=text)
        self.sent.append(answer["id"])
        return answer["id"]

    def change(self, kind, message, text=""):
        return self.links["phone"].act("send", kind=kind, of=message, text=text)["id"]

    def arrives(self, name, entry):
        link = self.links[name]
        link.until(lambda: entry in link.device.entries, "an entry")

    def unread(self, name, count):
        """Waits until a device counts that many, and holds it against what the server says."""
        link = self.links[name]
        link.until(lambda: link.device.unread(self.conversation) == count, f"an unread count of {count}")
        told = link.ask("unread", conversation=self.conversation)
        check(f"{name} counts {count} unread, and so does the server", int(told["total"]) == count)

    def all_alike(self):
        """Every device has every message once, and shows the same."""
        self.arrives_everywhere(self.send(f"are we {len(self.sent)} alike?"))
        phone = self.links["phone"].device
        for name, link in self.links.items():
            for message in self.sent:
                if link.device.text(message) != phone.text(message):
                    check(f"{name} shows {link.device.text(message)!r} in place of {phone.text(message)!r}", False)
            once = [message for message in link.came if message in self.sent]
            check(f"{name} shows {len(self.sent)} messages as all do, none came twice", len(once) == len(set(once)))

    def arrives_everywhere(self, entry):
        for name in ("laptop", "mobile", "browser"):
            self.arrives(name, entry)


def messages(talk):
    phone, laptop = talk.links["phone"], talk.links["laptop"]
    text = "hello 你好 👋"
    hello = talk.send(text)
    talk.arrives_everywhere(hello)
    carbon = laptop.device.entries[hello]
    check("the carbon is from the own account and names the login",
          (carbon["from"], carbon["origin"]) == (talk.ann, phone.device.login))
    again = phone.ask("send", to=talk.bob, clientId=f"{talk.run} {text}", text=text)
    check("a repetition has no second effect", again["id"] == hello and again["duplicate"])
    refused("conflict", "another text under the same client ID", phone.ask, "send", to=talk.bob,
            clientId=f"{talk.run} {text}", text="x")
    check("what a login sent does not come back to it", hello not in phone.came)
    talk.unread("browser", 1)
    talk.links["mobile"].act("read", message=hello)
    talk.unread("browser", 0)
    for kind in ("receipt.delivered", "receipt.read"):
        laptop.until(lambda: [e for e in laptop.device.entries.values() if e and e["kind"] == kind], kind)
    check("the sender gets receipts")


def refused(code, what, ask, /, *args, **fields):
    try:
        ask(*args, **fields)
    except Refused as fault:
        check(f"{what}: {code}", fault.code == code)
        return fault.answer
    return check(what + " is accepted", False)


def changes(talk):
    """The browser is away while messages are edited, recalled and reacted to, and sees the outcome."""
    mobile = talk.links["mobile"]
    talk.links["browser"].drop()
    draft, slip, last = talk.send("helo"), talk.send("nonsense"), talk.send("last")
    talk.arrives("mobile", last)
    talk.unread("mobile", 3)
    talk.change("message.edit", draft, "hell")
    talk.change("message.edit", draft, "hello")
    talk.change("message.recall", slip)
    talk.arrives("mobile", talk.change("message.edit", slip, "too late"))
    mobile.act("send", kind="message.reaction", of=draft, text="+1")
    mobile.act("send", kind="message.deleteForMe", of=talk.sent[0])
    refused("forbidden", "an edit of somebody else's message", mobile.ask, "send", kind="message.edit", of=draft, text="x")
    for name in ("mobile", "browser"):
        if name == "browser":
            talk.resume(name)
        device = talk.links[name].device
        check(f"{name} shows the edit", device.text(draft) == "hello")
        check(f"{name} does not show what was recalled or deleted", not device.text(slip) and not device.text(talk.sent[0]))
        check(f"{name} has the reaction", [e for e in device.entries.values() if e and e["kind"] == "message.reaction"])
        talk.unread(name, 2)
    talk.sent = [message for message in talk.sent if message not in (slip, talk.sent[0])]
    mobile.act("clearUnread", conversation=talk.conversation)
    for name in ("mobile", "browser"):
        talk.unread(name, 0)


def state(talk):
    mobile, browser = talk.links["mobile"], talk.links["browser"]
    for kind, subject in (("conversation.pin", ""), ("conversation.mark", "star"), ("conversation.unread", "")):
        mobile.act("send", conversation=talk.conversation, kind=kind, subject=subject)
    for name in ("pinned", "mark:star", "unread"):
        browser.until(lambda: browser.device.register(talk.conversation, name)["number"], name)
    mobile.act("read", conversation=talk.conversation, seq="1")
    browser.until(lambda: not browser.device.register(talk.conversation, "unread")["number"], "the end of unread")
    check("registers are alike", mobile.device.registers == browser.device.registers)


def claims(talk):
    """A call rings on two devices, and both answer."""
    mobile, browser = talk.links["mobile"], talk.links["browser"]
    key = talk.run + "-call"
    won, late = mobile.ask("claim", key=key), browser.ask("claim", key=key)
    check("the first device has the call, the other learns who", won.get("won") and not late.get("won")
          and late["winner"]["device"] == won["winner"]["device"])
    browser.until(lambda: [e for e in browser.device.entries.values() if e and e["kind"] == "claim" and key in e["key"]], "claim")
    check("and is told to stop ringing")


def frames(talk):
    phone, mobile = talk.links["phone"], talk.links["mobile"]
    phone.ask("publish", to=talk.bob)
    mobile.until(lambda: [e for e in mobile.device.live if e["kind"] == "typing" and e["from"] == talk.ann], "typing")
    check("somebody is typing")
    mobile.say({"t": "background", "on": True})
    mobile.say({"t": "ping", "nonce": "é 7"})
    mobile.until(lambda: mobile.pongs, "pong")
    check("a ping is answered", mobile.pongs == ["é 7"])
    mobile.nacks = True
    talk.arrives("mobile", talk.send("poison"))
    mobile.drop()
    position, mobile.device.position = mobile.device.position, None
    mobile = talk.links["mobile"] = Link(mobile.device, talk.addr).attach()
    check("without a position it goes on behind what was nacked", mobile.device.position == position and not mobile.came)
    bad = Link(Device(os.path.join(talk.folder, "bad"), talk.bob), talk.addr)
    bad.log_in("linux")
    bad.attach()
    bad.write(b'{"t":"ping","from":"ann"}')
    bad.until(lambda: bad.closed, "closed")
    check("a frame with an unknown field ends the connection", bad.closed["reason"] == "protocol_error")


def lost(talk):
    """Connections that break at bad moments."""
    laptop, phone = talk.links["laptop"], talk.links["phone"]
    before = [talk.send(f"unseen {i}") for i in range(3)]
    while before[-1].encode() not in laptop.line():
        pass  # they have come, but the laptop's process dies before it stores them
    laptop = talk.resume("laptop")
    check("what was not stored comes again, once, and says so",
          laptop.redelivered and [message for message in laptop.came if message in before] == before)
    fields = {"to": talk.bob, "clientId": talk.run + "-lost", "text": "answer lost"}
    phone.write(json.dumps({"t": "send", **fields}).encode())
    talk.resume("phone")
    talk.sent.append(talk.links["phone"].act("send", **fields)["id"])
    talk.all_alike()


def killed(talk, server):
    """The server dies without a word, with messages that nobody has read yet."""
    for i in range(3):
        talk.send(f"before the end {i}")
    last = {"to": talk.bob, "clientId": talk.run + "-last", "text": "the last one"}
    talk.sent.append(talk.links["phone"].act("send", **last)["id"])
    server.kill()
    server.start()
    for name in talk.links:
        talk.resume(name)
    again = talk.links["phone"].ask("send", **last)
    check("what was answered before SIGKILL is known afterwards", again["id"] == talk.sent[-1] and again["duplicate"])
    talk.all_alike()


def resets(talk):
    """Positions that mean nothing to the server, such as after its file was put back."""
    talk.links["mobile"].act("clearUnread")
    talk.arrives("browser", talk.send("unread before the reset"))
    for name, reason, epoch, seq in (("browser", "epoch", 1, 0), ("laptop", "ahead", 0, 1000)):
        device = talk.links[name].device
        talk.links[name].drop()
        position, registers = device.position, dict(device.registers)
        device.position = {"epoch": position["epoch"] + epoch, "seq": position["seq"] + seq}
        device.registers["\nof another time"] = {"number": 1, "seq": 1, "bytes": ""}
        link = talk.links[name] = Link(device, talk.addr).attach()
        check(f"an impossible position is reset: {reason}", link.resets == [reason])
        here = device.position
        check("and ends where it was or later", here["epoch"] == position["epoch"] and here["seq"] >= position["seq"])
        check("with the registers that there are", device.registers == registers)
    talk.arrives("browser", talk.send("unread after it"))
    talk.unread("browser", 2)
    talk.all_alike()


def ends(talk):
    phone, laptop = talk.links["phone"], talk.links["laptop"]
    phone.ask("kick", logins=[laptop.device.login], note="left open at the library")
    laptop.until(lambda: laptop.closed, "closed")
    closed = laptop.closed
    check("a kicked device learns who did it", (closed["reason"], closed["cause"]["device"], closed["note"], closed["retry"])
          == ("kicked_self", "phone", "left open at the library", "no"))
    answer = refused("ended", "an attach after that", talk.resume, "laptop")
    check("and says why", decode("server", json.dumps(answer["closed"]).encode())["reason"] == "kicked_self")
    missed = talk.send("while the laptop was out")
    laptop = talk.open("laptop", talk.ann, "macos")
    check("a new login goes on where the device was", missed in laptop.came)
    talk.all_alike()
    own = talk.send("sent by an earlier login")
    again = talk.open("phone", talk.ann, "ios")
    phone.until(lambda: phone.closed, "closed")
    check("the same device again replaces its own login", phone.closed["reason"] == "replaced")
    check("and what that sent comes, but is not a second message", own in again.came)
    talk.all_alike()
    phone = again
    others = [talk.open(f"phone {i}", talk.ann, "ios") for i in range(2, 6)]
    phone.until(lambda: phone.closed, "closed")
    check("the fifth login of a platform ends the first", (phone.closed["reason"], phone.closed["cause"]["device"])
          == ("evicted_quota", "phone 5"))
    others[0].write(b'{"t":"logout"}')
    others[0].until(lambda: others[0].closed, "closed")
    check("a logout is answered by the closing frame", others[0].closed["reason"] == "logout")


def converse(addr, program, db):
    """Runs the whole conversation. Without a program to start, the server at the address is not killed."""
    kinds()
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
        server = None
        try:
            if program:
                server = Server(program, addr, db or os.path.join(folder, "chat.db"), log)
            everybody = Talk(server.addr if server else addr, folder)
            for scene in (messages, changes, state, claims, frames, lost):
                scene(everybody)
            if server:
                killed(everybody, server)
            for scene in (resets, ends):
                scene(everybody)
            return True
        except BaseException:
            log.seek(0)
            print("--- the server's log", log.read(), "---", sep="\n", flush=True)
            raise
        finally:
            if server:
                server.kill()
