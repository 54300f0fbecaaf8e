"""Checks the codec of client.py with the test vectors."""
import json

from client import Fault, decode, encode

RENAMED = {"t": "frame", "time": "timeMillis", "expires": "expiresMillis", "afterMs": "afterMillis"}
FLAG_NAMES = {1: "countsAsUnread", 2: "wantsReceipts"}


def means(value, inside=""):
    """Says what a frame means in the words of the vectors, without what is empty."""
    if isinstance(value, list):
        return [means(one, inside) for one in value]
    if not isinstance(value, dict):
        return str(value) if type(value) is int else value
    out = {RENAMED.get(k, k): means(inner, k) for k, inner in value.items() if k not in ("bytes", "flags")}
    if "bytes" in value:
        out["valueHex" if inside == "states" else "payloadHex"] = value["bytes"].hex()
    flags = value.get("flags", 0)
    out.update({name: bool(flags & bit) for bit, name in FLAG_NAMES.items()}, otherFlags=flags & ~sum(FLAG_NAMES))
    return out


def compact(value):
    """Leaves out what is empty, so that it is equal to what is missing. A time of 0 is not empty."""
    if isinstance(value, list):
        return [compact(one) for one in value]
    if not isinstance(value, dict):
        return value
    times = ("timeMillis", "expiresMillis")
    return {k: compact(v) for k, v in value.items() if v not in ("", "0", 0, False, []) or k in times}


def check_vectors(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    wrong = []

    def expect(name, have, want):
        if have != want:
            wrong.append(f"{name}:\n  have {have}\n  want {want}")

    for v in vectors["valid"]:
        canonical = v.get("canonical", v["line"])
        try:
            frame = decode(v["direction"], v["line"].encode())
            expect(v["name"], compact(means(frame)), compact(v["means"]))
            line = encode(v["direction"], frame)
            expect(v["name"] + ", written", json.loads(line), json.loads(canonical))
            expect(v["name"] + ", read again", decode(v["direction"], line), frame)
        except Fault as fault:
            expect(v["name"], f"fault {fault}", "none")
    for v in vectors["invalid"]:
        line = bytes.fromhex(v["hex"]) if "hex" in v else v.get("line", "").encode()
        try:
            expect(v["name"], decode(v["direction"], line + b" " * v.get("spaces", 0)), "fault " + v["fault"])
        except Fault as fault:
            expect(v["name"], str(fault), v["fault"])
    print(*wrong, f"{len(vectors['valid'])} valid and {len(vectors['invalid'])} invalid vectors, {len(wrong)} differences",
          sep="\n")
    return not wrong
