"""A client of the sync protocol, written from protocol.md alone, as a start for clients in other languages.

    python3 docs/client.py vectors event/testdata/vectors.json
    python3 docs/client.py talk --addr 127.0.0.1:7400
    python3 docs/client.py talk --server ./quickstart --db /tmp/chat.db

The first checks decoder and encoder with the test vectors (client_vectors.py). The others hold a conversation with the server
of examples/quickstart and check every answer: with one that runs, or with one that they start, kill and start again
(client_talk.py, over connections of client_link.py). Here is what every client has: decode and encode know the frames, Device
keeps the client rule. What an app adds is a connection, a ping every 30 s, coming back as `closed` advises, and what users
see. Needs Python 3.9 and nothing but its standard library.
"""
import argparse
import base64
import json
import os
import re
import sys

# ---- Frames: how they are read and written, section by section of protocol.md


class Fault(Exception):
    """A line that is not a frame. Its text is the vectors' word for why: size, syntax, type, field or value."""


class Pairs(list):
    """A JSON object as a list of (name, value), so that a field that is there twice is seen."""


class Literal:
    """A JSON number as it was written."""

    def __init__(self, digits):
        self.digits = digits


class Type:
    """read(value, strict) takes values of a type out of JSON, write(value) puts them in."""

    def __init__(self, read, write=lambda value: value):
        self.read, self.write = read, write


def valid(good, value=None):
    if not good:
        raise Fault("value")
    return value


HALVES = "[\ud800-\udfff]"  # of surrogate pairs; Python joins those that belong together


def characters(value):
    """A string without half of a surrogate pair."""
    return valid(isinstance(value, str) and not re.search(HALVES, value), value)


def printable(value):
    """A string without control characters and characters that turn the direction of text."""
    return valid(not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", characters(value)), value)


def number_up_to(most):
    def read(value, strict):
        valid(re.fullmatch("0|[1-9][0-9]{0,19}", characters(value)))
        return valid(int(value) <= most, int(value))
    return Type(read, str)


def read_base64(value, strict):
    try:
        raw = base64.b64decode(characters(value), validate=True)
    except ValueError:
        raise Fault("value") from None
    return valid(base64.b64encode(raw).decode() == value, raw)  # neither stray bits nor missing padding


def read_flags(value, strict):
    valid(isinstance(value, Literal) and re.fullmatch("0|[1-9][0-9]{0,4}", value.digits))
    return valid(int(value.digits) < 65536, int(value.digits))


def list_of(element):
    return Type(lambda value, strict: [element.read(one, strict) for one in valid(type(value) is list, value)],
                lambda value: [element.write(one) for one in value])


EMPTY = ("", b"", 0, False, [])


class Record:
    """An object with fields that it needs and fields that may be missing. text and data become one field, bytes."""

    def __init__(self, needs, may=None, check=lambda fields: True):
        self.needs, self.types, self.check = needs, {**needs, **(may or {})}, check

    def read(self, value, strict):
        given = {}
        for name, inner in valid(isinstance(value, Pairs), value):
            if name in given or re.search(HALVES, name) or strict and name not in self.types:
                raise Fault("field")
            if name in self.types:
                given[name] = inner
        if not given.keys() >= self.needs.keys() or given.keys() >= {"text", "data"}:
            raise Fault("field")
        fields = {}
        for name, inner in given.items():
            inner = self.types[name].read(inner, strict)
            if inner not in EMPTY or name in self.needs or name in ("time", "expires"):
                fields["bytes" if name in ("text", "data") else name] = inner
        return valid(self.check(fields), fields)

    def write(self, fields):
        fields = dict(fields)
        if "bytes" in fields:
            raw = fields["bytes"]
            try:
                fields["text"] = raw.decode()
            except UnicodeDecodeError:
                fields["data"] = raw
            else:
                if len(json.dumps(fields["text"], ensure_ascii=False).encode()) > 2 * len(raw) + 1024:
                    del fields["text"]  # too many escapes
                    fields["data"] = raw
        return {name: kind.write(fields[name]) for name, kind in self.types.items() if name in fields}


NUMBER = number_up_to(2**64 - 1)
TIME = number_up_to(2**63 - 1)
DELAY = number_up_to(9_223_372_036_854)
ID = Type(lambda value, strict: valid(
    1 <= len(printable(value).encode()) <= 128 and not {".", ".."} & set(value.split("/")), value))
NAME = Type(lambda value, strict: valid(len(printable(value)) <= 128, value))
KEY = Type(lambda value, strict: valid(len(characters(value).encode()) <= 512, value))
WORDS = Type(lambda value, strict: characters(value))
KIND = Type(lambda value, strict: valid(re.fullmatch("[A-Za-z0-9._-]{1,64}", characters(value)), value))
FLAGS = Type(read_flags)
BOOL = Type(lambda value, strict: valid(isinstance(value, bool), value))
BYTES = {"text": Type(lambda value, strict: characters(value).encode()),
         "data": Type(read_base64, lambda value: base64.b64encode(value).decode())}
REGISTER_NAME = Type(lambda value, strict: valid(not ID.read(value, strict).startswith("_"), value))

POSITION = Record({"epoch": NUMBER, "seq": NUMBER})
REGISTER = Record({"name": REGISTER_NAME, "seq": NUMBER}, {"conversation": ID, "number": NUMBER, **BYTES})
ABOUT = {"flags": FLAGS, "conversation": ID, "id": ID, "clientId": ID, "from": ID, "origin": ID, "key": KEY, "time": TIME,
         "expires": TIME, "ordinal": NUMBER, **BYTES}
ENTRY = Record({"kind": KIND, "seq": NUMBER}, ABOUT)
EVENT = Record({"kind": KIND}, ABOUT)
CAUSE = Record({}, {"login": ID, "device": ID, "platform": ID, "name": NAME})


def rising(data):
    numbers = [data["prev"], *(entry["seq"] for entry in data.get("entries", []))]
    return all(a < b for a, b in zip(numbers, numbers[1:])) and numbers[-1] <= data["seq"]


FRAMES = {
    "server": {
        "welcome": Record({"login": ID, "position": POSITION, "head": NUMBER}, {"token": ID}),
        "state": Record({"epoch": NUMBER}, {"states": list_of(REGISTER), "more": BOOL}),
        "data": Record({"epoch": NUMBER, "prev": NUMBER, "seq": NUMBER},
                       {"redelivered": BOOL, "entries": list_of(ENTRY)}, rising),
        "caughtUp": Record({"position": POSITION}),
        "reset": Record({"reason": ID, "from": POSITION, "to": POSITION}),
        "live": Record({"event": EVENT}),
        "pong": Record({}, {"nonce": NAME}),
        "closed": Record({"reason": ID}, {"note": WORDS, "cause": CAUSE, "retry": ID, "afterMs": DELAY}),
    },
    "client": {
        "ack": Record({"position": POSITION}),
        "nack": Record({"position": POSITION}, {"code": NAME}),
        "resetAck": Record({"position": POSITION}),
        "tokenStored": Record({}),
        "background": Record({"on": BOOL}),
        "ping": Record({}, {"nonce": NAME}),
    },
}
LONGEST = {"server": 4_194_304, "client": 4_096}


def no_constant(word):
    raise ValueError(word + " is not JSON")


def parse(line):
    try:
        return json.loads(line.decode(), object_pairs_hook=Pairs, parse_int=Literal, parse_float=Literal,
                          parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise Fault("syntax") from None


def decode(direction, line):
    """Turns a line into a frame: a dict with its type in t, numbers as int and payloads as bytes. Raises Fault."""
    if len(line) > LONGEST[direction]:
        raise Fault("size")
    pairs = parse(line)
    if not isinstance(pairs, Pairs):
        raise Fault("syntax")
    kinds = [value for name, value in pairs if name == "t"]
    if not kinds or not isinstance(kinds[0], str) or kinds[0] not in FRAMES[direction]:
        raise Fault("type")
    if len(kinds) > 1:
        raise Fault("field")
    rest = Pairs(pair for pair in pairs if pair[0] != "t")
    return {"t": kinds[0], **FRAMES[direction][kinds[0]].read(rest, strict=direction == "client")}


def encode(direction, frame):
    """Turns a frame into a line without its end."""
    fields = {"t": frame["t"], **FRAMES[direction][frame["t"]].write(frame)}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


# ---- The client rule

# From kinds.md: the register that a kind sets, and to what number; kinds that change a message or take it away.
REGISTERS = {"conversation.unread": ("unread", 1), "conversation.pin": ("pinned", 1), "conversation.unpin": ("pinned", 0),
             "conversation.delete": ("deleted", 1), "conversation.mark": ("mark", 1), "conversation.unmark": ("mark", 0),
             "conversation.mute": ("muted", 1), "conversation.unmute": ("muted", 0), "settings.silentMode": ("silentMode", 1)}
READS = ("conversation.read", "conversation.clearUnread", "conversation.clearAllUnread")
REMOVES = ("message.recall", "message.deleteForMe")
CHANGES = ("message.edit", "message.reaction", *REMOVES)
STORED = ("login", "token", "position", "entries", "registers", "first", "gone")


class Stale(Exception):
    """Frames were lost: drop the connection and attach again from the stored position."""


class Device:
    """What one device stores, and what it does with frames. It is all in one JSON file that is replaced as a whole, so
    that every save is a transaction; a real client has a database and writes what has changed. JSON has no bytes: payloads
    are kept as strings of one character a byte."""

    def __init__(self, path, account):
        self.path, self.account = path, account
        self.load()

    def load(self):
        """Takes what is stored and forgets everything else, as a process that dies does."""
        self.login = self.token = self.position = None
        self.start = None  # position from welcome or reset that is not stored yet
        self.entries = {}  # by message ID: the entry as it came, or None if it is gone and must not come back
        self.registers = {}  # by conversation and name: {number, seq, bytes}
        self.first = {}  # by conversation: the first ordinal that came, but for edits
        self.gone = {}  # by conversation: lower ordinals whose messages were recalled or deleted
        self.live = []
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                self.__dict__.update(json.load(file))

    def save(self):
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump({name: self.__dict__[name] for name in STORED}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)

    def receive(self, frame):
        """Does what the client rule says for a frame of the engine, and returns the frame to answer with or None."""
        kind, position = frame["t"], self.start or self.position
        if kind == "welcome":
            self.login = frame["login"]
            self.start = None if self.position else frame["position"]
            if "token" in frame:
                self.token = frame["token"]
                self.save()
                return {"t": "tokenStored"}
        elif kind == "state":
            if frame["epoch"] != position["epoch"]:
                raise Stale
            for register in frame.get("states", []):
                self.set_register(register)
        elif kind == "data":
            return self.receive_data(frame, position)
        elif kind == "caughtUp":
            if frame["position"] != position:
                raise Stale
            self.move(position)
        elif kind == "reset":
            return self.reset(frame)
        elif kind == "live":
            self.live.append(frame["event"])
        elif kind == "closed" and frame.get("retry") == "login":
            self.login = self.token = None
            self.save()
        return None

    def receive_data(self, frame, position):
        if frame["epoch"] != position["epoch"] or frame["prev"] > position["seq"]:
            raise Stale
        if frame["seq"] <= position["seq"]:
            return None
        for entry in frame.get("entries", []):
            if entry["seq"] > position["seq"]:
                self.set_registers(entry)
                self.apply(entry, f"{frame['epoch']}/{entry['seq']}")
        self.move({"epoch": frame["epoch"], "seq": frame["seq"]})
        return {"t": "ack", "position": self.position}

    def move(self, position):
        self.position, self.start = position, None
        self.save()

    def reset(self, frame):
        self.start, self.first, self.gone = frame["to"], {}, {}
        for entry in filter(None, self.entries.values()):
            entry.pop("ordinal", None)
        if frame["reason"] in ("epoch", "ahead"):
            self.registers = {}
        if frame["reason"] == "ahead":
            self.position = None
            self.save()
        return {"t": "resetAck", "position": frame["to"]}

    def apply(self, entry, place):
        """Applies an entry, unless the device has it. One without an ID is known by its place."""
        key, conversation, kind = entry.get("id", place), entry.get("conversation", ""), entry["kind"]
        if "ordinal" in entry and kind not in CHANGES:
            self.first.setdefault(conversation, entry["ordinal"])
        if self.entries.get(key) and "ordinal" in entry:  # it comes again after a reset
            self.entries[key]["ordinal"] = entry["ordinal"]
        if key in self.entries or entry.get("from") == self.account and self.sent(entry.get("clientId")):
            return
        about = changed(entry)
        if about in self.entries and self.entries[about] is None:
            self.entries[key] = None  # too late: what it is about is gone
            return
        if kind in REMOVES:
            self.remove(about, conversation)
        elif "key" in entry:
            self.drop(lambda _, old: old.get("key") == entry["key"])
        self.entries[key] = {**entry, "bytes": entry.get("bytes", b"").decode("latin-1")}

    def sent(self, client_id):
        return client_id is not None and any(e and e.get("clientId") == client_id for e in self.entries.values())

    def drop(self, which):
        gone = {key: old for key, old in self.entries.items() if old and which(key, old)}
        self.entries.update(dict.fromkeys(gone))
        return gone.values()

    def remove(self, message, conversation):
        """Takes away a message with its edits and reactions, for good."""
        gone = self.drop(lambda key, old: key == message or changed(old) == message)
        self.entries[message] = None
        ordinals = {old["ordinal"] for old in gone if "ordinal" in old}
        self.gone[conversation] = self.gone.get(conversation, []) + list(ordinals)

    def set_registers(self, entry):
        """Sets what an entry says about the state of conversations."""
        if entry["kind"] in REGISTERS:
            name, value = REGISTERS[entry["kind"]]
            name += ":" + subject(entry) if subject(entry) else ""
            self.set_register({**entry, "name": name, "number": value})
        elif entry["kind"] in READS:
            mark = json.loads(entry["bytes"])
            name = "readPrivate" if mark.get("private") else "read"
            one = {"conversation": entry.get("conversation", ""), "ordinal": mark.get("ordinal", "")}
            for at in mark.get("marks", [one]):
                register = {"conversation": at["conversation"], "seq": entry["seq"]}
                self.set_register({**register, "name": name, "number": int(mark["seq"]), "bytes": at["ordinal"].encode()})
                if self.register(at["conversation"], "unread")["number"]:
                    self.set_register({**register, "name": "unread"})

    def set_register(self, new):
        """Merges a register into those that there are. A read marker never goes back."""
        by = "number" if new["name"] in ("read", "readPrivate") else "seq"
        key = f"{new.get('conversation', '')}\n{new['name']}"
        if key not in self.registers or new.get(by, 0) > self.registers[key][by]:
            value = new.get("bytes", b"").decode("latin-1")
            self.registers[key] = {"number": new.get("number", 0), "seq": new["seq"], "bytes": value}

    def register(self, conversation, name):
        return self.registers.get(f"{conversation}\n{name}", {"number": 0, "seq": 0, "bytes": ""})

    def unread(self, conversation):
        """How many messages of a conversation are unread, as far as the device can know."""
        read = max(int(self.register(conversation, name)["bytes"] or 0) for name in ("read", "readPrivate"))
        held = {e.get("ordinal", 0) for e in self.entries.values() if e and e.get("conversation") == conversation}
        first = self.first.get(conversation, max(held, default=0) + 1)
        gone = sum(read < ordinal < first for ordinal in self.gone.get(conversation, []))
        return max(0, first - 1 - read) - gone + sum(ordinal >= first and ordinal > read for ordinal in held)

    def text(self, message):
        """The text of a message, as it was edited last; None if it is not there."""
        edits = [e for e in self.entries.values() if e and e["kind"] == "message.edit" and changed(e) == message]
        entry = edits[-1] if edits else self.entries.get(message)
        return entry and entry["bytes"].encode("latin-1").decode()


def subject(entry):
    """The middle line of an entry's key; empty if it has none."""
    lines = entry.get("key", "").split("\n")
    return lines[1] if len(lines) == 3 else ""


def changed(entry):
    """The message that an entry changes; None if it changes none."""
    return subject(entry).partition(" ")[0] if entry["kind"] in CHANGES else None


def main():
    parser = argparse.ArgumentParser(description="Checks of the sync protocol.")
    commands = parser.add_subparsers(dest="command", required=True)
    vectors = commands.add_parser("vectors", help="check the codec with test vectors")
    vectors.add_argument("file")
    talk = commands.add_parser("talk", help="hold a conversation with the quickstart server")
    talk.add_argument("--addr", default="127.0.0.1:0", help="where the server is, or where to start it")
    talk.add_argument("--server", help="program to start, kill and start again; otherwise one must run")
    talk.add_argument("--db", help="file for the server that is started")
    args = parser.parse_args()
    if args.command == "vectors":
        from client_vectors import check_vectors
        return check_vectors(args.file)
    from client_talk import converse
    return converse(args.addr, args.server, args.db)


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
