"""The other side of tests/it/interop.rs: signs, encrypts, verifies and canonicalizes with Python's own libraries.

usage: interop.py sign | check | canonical COUNT SEED

`sign` and `check` read one JSON object from stdin and write one to stdout; `canonical` writes COUNT lines.
Each library signs the detached form with the unencoded payload by itself; PyJWT knows the algorithm by its old
name only, and encrypts nothing.
"""

import base64
import hashlib
import json
import os
import random
import struct
import sys
import warnings

import jwt
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from joserfc import jwe as joserfc_jwe
from joserfc import jws as joserfc_jws
from joserfc.jwk import OKPKey
from jwcrypto import jwe as jwcrypto_jwe
from jwcrypto import jws as jwcrypto_jws
from jwcrypto.jwk import JWK

# joserfc warns of the old name of Ed25519, which is tried here on purpose.
warnings.simplefilter("ignore")


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def digest(text):
    return b64url(hashlib.sha256(text.encode()).digest())


def okp(curve, public, secret=None):
    jwk = {"kty": "OKP", "crv": curve, "x": b64url(public)}
    return jwk if secret is None else jwk | {"d": b64url(secret)}


def thumbprint(curve, public):
    return b64url(hashlib.sha256(rfc8785.dumps(okp(curve, public))).digest())


# Signing: header and payload in, the detached JWS out.


def sign_cryptography(seed, header, payload):
    segment = b64url(json.dumps(header).encode())
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(segment.encode() + b"." + payload)
    return f"{segment}..{b64url(signature)}"


def sign_joserfc(seed, header, payload):
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    registry = joserfc_jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    key = OKPKey.import_key(okp("Ed25519", public, seed))
    # Left to itself it attaches an unencoded payload that has letters and digits only, such as `null`.
    return joserfc_jws.detach_content(joserfc_jws.serialize_compact(header, payload, key, registry=registry))


def sign_pyjwt(seed, header, payload):
    key = Ed25519PrivateKey.from_private_bytes(seed)
    headers = {name: value for name, value in header.items() if name != "alg"}
    return jwt.api_jws.PyJWS().encode(payload, key, algorithm="EdDSA", headers=headers, is_payload_detached=True)


def sign_jwcrypto(seed, header, payload):
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    token = jwcrypto_jws.JWS(payload)
    token.allowed_algs = [header["alg"]]
    token.add_signature(JWK(**okp("Ed25519", public, seed)), None, protected=json.dumps(header))
    token.detach_payload()
    return token.serialize(compact=True)


SIGNERS = {
    "cryptography": (sign_cryptography, ["Ed25519", "EdDSA"]),
    "joserfc": (sign_joserfc, ["Ed25519", "EdDSA"]),
    "jwcrypto": (sign_jwcrypto, ["Ed25519", "EdDSA"]),
    "PyJWT": (sign_pyjwt, ["EdDSA"]),
}


# Encrypting: the node's public key and a plaintext in, the compact JWE out.


def derive(shared):
    def info(data):
        return len(data).to_bytes(4, "big") + data

    context = info(b"A256GCM") + info(b"") + info(b"") + (256).to_bytes(4, "big")
    return ConcatKDFHash(hashes.SHA256(), 32, context).derive(shared)


def encrypt_cryptography(public, header, plaintext):
    sender = X25519PrivateKey.generate()
    shared = sender.exchange(X25519PublicKey.from_public_bytes(public))
    header = header | {"epk": okp("X25519", sender.public_key().public_bytes_raw())}
    segment = b64url(json.dumps(header).encode())
    iv = os.urandom(12)
    sealed = AESGCM(derive(shared)).encrypt(iv, plaintext, segment.encode())
    return f"{segment}..{b64url(iv)}.{b64url(sealed[:-16])}.{b64url(sealed[-16:])}"


def encrypt_joserfc(public, header, plaintext):
    key = OKPKey.import_key(okp("X25519", public))
    return joserfc_jwe.encrypt_compact(header, plaintext, key, algorithms=["ECDH-ES", "A256GCM"])


def encrypt_jwcrypto(public, header, plaintext):
    token = jwcrypto_jwe.JWE(plaintext, protected=json.dumps(header))
    token.add_recipient(JWK(**okp("X25519", public)))
    return token.serialize(compact=True)


ENCRYPTERS = {
    "cryptography": encrypt_cryptography,
    "joserfc": encrypt_joserfc,
    "jwcrypto": encrypt_jwcrypto,
}


def sign_keyring(root, version, epoch, seeds):
    def entry(seed, use):
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return {"kid": thumbprint("Ed25519", public), "x": b64url(public), "use": use}

    keys = [entry(root, "root")] + [entry(seed, "job") | {"notBefore": 0, "notAfter": 2**40} for seed in seeds]
    header = {"alg": "Ed25519", "typ": "edge-keyring+jws", "kid": keys[0]["kid"]}
    payload = json.dumps({"version": version, "epoch": epoch, "keys": keys})
    signed = f"{b64url(json.dumps(header).encode())}.{b64url(payload.encode())}"
    signature = Ed25519PrivateKey.from_private_bytes(root).sign(signed.encode())
    return f"{signed}.{b64url(signature)}"


def sign():
    order = json.load(sys.stdin)
    root, seed = os.urandom(32), os.urandom(32)
    node = unb64url(order["publicKey"]["x"])
    kid = thumbprint("Ed25519", Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())
    jobs = []

    def job(name, sign_with, alg, payload, sealed=None):
        header = {
            "alg": alg, "b64": False, "crit": ["b64"], "typ": "edge-job+jws", "kid": kid, "epoch": 3,
            "aud": order["cluster"], "jti": f"job-{len(jobs)}", "kind": "apply", "seq": len(jobs),
            "iat": order["now"], "exp": order["now"] + 60, "idk": digest("key"),
        }
        if sealed is not None:
            header["enc_sha256"] = digest(sealed)
        jobs.append({
            "library": name, "id": header["jti"], "kind": "apply", "expiresAt": header["exp"], "idempotencyKey": "key",
            # What the server sends is its own text of the payload, not the canonical one.
            "payload": None if sealed else json.dumps(payload, indent=1), "encryptedPayload": sealed,
            "signature": sign_with(seed, header, rfc8785.dumps(None if sealed else payload)),
            "expected": rfc8785.dumps(payload).decode(),
        })

    payload = order["payload"]
    for name, (sign_with, algorithms) in SIGNERS.items():
        for alg in algorithms:
            job(f"{name} {alg}", sign_with, alg, payload)
    for name, encrypt in ENCRYPTERS.items():
        header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": thumbprint("X25519", node)}
        sealed = encrypt(node, header, json.dumps(payload).encode())
        job(f"{name} encrypted", SIGNERS[name][0], "Ed25519", payload, sealed)
    json.dump({"keyring": sign_keyring(root, 1, 3, [seed]), "jobs": jobs}, sys.stdout)


# Checking: true, or what the library said.


def verify_cryptography(public, token, payload):
    segment, signature = token.split("..")
    Ed25519PublicKey.from_public_bytes(public).verify(unb64url(signature), segment.encode() + b"." + payload)


def verify_joserfc(public, token, payload):
    registry = joserfc_jws.JWSRegistry(algorithms=["Ed25519", "EdDSA"], strict_check_header=False)
    key = OKPKey.import_key(okp("Ed25519", public))
    joserfc_jws.deserialize_compact(token, key, payload=payload, registry=registry)


def verify_pyjwt(public, token, payload):
    # It does not read the new name, so that its primitive has to do.
    segment, signature = token.split("..")
    algorithm = jwt.algorithms.OKPAlgorithm()
    key = Ed25519PublicKey.from_public_bytes(public)
    if not algorithm.verify(segment.encode() + b"." + payload, key, unb64url(signature)):
        raise InvalidSignature


def verify_jwcrypto(public, token, payload):
    jws = jwcrypto_jws.JWS()
    jws.allowed_algs = ["Ed25519", "EdDSA"]
    jws.deserialize(token)
    jws.verify(JWK(**okp("Ed25519", public)), detached_payload=payload)


def decrypt_cryptography(secret, token):
    segment, _, iv, ciphertext, tag = token.split(".")
    header = json.loads(unb64url(segment))
    sender = X25519PublicKey.from_public_bytes(unb64url(header["epk"]["x"]))
    key = derive(X25519PrivateKey.from_private_bytes(secret).exchange(sender))
    return AESGCM(key).decrypt(unb64url(iv), unb64url(ciphertext) + unb64url(tag), segment.encode())


def decrypt_joserfc(secret, token):
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    key = OKPKey.import_key(okp("X25519", public, secret))
    return joserfc_jwe.decrypt_compact(token, key, algorithms=["ECDH-ES", "A256GCM"]).plaintext


def decrypt_jwcrypto(secret, token):
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    jwe = jwcrypto_jwe.JWE()
    jwe.deserialize(token, key=JWK(**okp("X25519", public, secret)))
    return jwe.payload


VERIFIERS = {
    "cryptography": verify_cryptography,
    "joserfc": verify_joserfc,
    "jwcrypto": verify_jwcrypto,
    "PyJWT": verify_pyjwt,
}

DECRYPTERS = {
    "cryptography": decrypt_cryptography,
    "joserfc": decrypt_joserfc,
    "jwcrypto": decrypt_jwcrypto,
}


def check():
    order = json.load(sys.stdin)
    public = unb64url(order["signer"])
    payload = rfc8785.dumps(json.loads(order["payload"]))
    found = {}
    for name, verify in VERIFIERS.items():
        for wanted, data in [("verifies", payload), ("refuses another payload", payload + b" ")]:
            try:
                verify(public, order["signature"], data)
                found[f"{name} {wanted}"] = wanted == "verifies"
            except Exception as error:
                found[f"{name} {wanted}"] = wanted != "verifies" or repr(error)
    for name, decrypt in DECRYPTERS.items():
        try:
            found[f"{name} decrypts"] = decrypt(unb64url(order["secret"]), order["sealed"]).decode() == order["payload"]
        except Exception as error:
            found[f"{name} decrypts"] = repr(error)
    # The payload of an encrypted job is null, and its header names the ciphertext.
    for name, verify in VERIFIERS.items():
        try:
            verify(public, order["sealedSignature"], rfc8785.dumps(None))
            found[f"{name} verifies an encrypted job"] = True
        except Exception as error:
            found[f"{name} verifies an encrypted job"] = repr(error)
    header = json.loads(unb64url(order["sealedSignature"].split(".")[0]))
    found["the ciphertext is the signed one"] = header["enc_sha256"] == digest(order["sealed"])
    header, body, signature = order["keyring"].split(".")
    Ed25519PublicKey.from_public_bytes(public).verify(unb64url(signature), f"{header}.{body}".encode())
    key = json.loads(unb64url(body))["keys"][0]
    found["the keyring is read"] = key["kid"] == thumbprint("Ed25519", unb64url(key["x"]))
    json.dump(found, sys.stdout)


# Canonical form: random texts, and what this side makes of them.

NUMBERS = [
    "0", "-0", "0.0", "-0.0", "1", "-1", "1.0", "1e0", "1E+2", "1e-7", "0.000001", "0.0000001", "1e21", "1e20", "123e18",
    "9007199254740991", "9007199254740992", "-9007199254740991", "-9007199254740993", "9007199254740993.0",
    "9007199254740991.5", "4503599627370496.5", "1e308", "1e309", "-1e400", "5e-324", "2e-324", "1e-400", "0.1",
    "0.30000000000000004", "333333333.33333329", "1424953923781206.25", "100000000000000000000000", "1.5e300",
    "4.35", "0.001e-5", "1" * 30, "0." + "3" * 40, "2.2250738585072011e-308", "1.7976931348623159e308",
]

CHARACTERS = (
    [chr(n) for n in range(0x20, 0x7F)] + ["\u007f", "\u0080", "\u00e9", "\u05d0", "\u20ac", "\u2028", "\ud7ff", "\ue000",
    "\ufb33", "\uffff", "\U0001f600", "\U00010000", "\U0010ffff"]
)

ESCAPES = ['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\u0000", "\\u001F", "\\u20ac", "\\u0061",
           "\\ud83d\\ude00", "\\uD800\\uDC00"]

BROKEN = ["\\ud83d", "\\ude00", "\\ud83d\\u0041", "\\ud83d\\ud83d", "\\x", "\\u12", "\n", "\t", "\x00"]


class Writer:
    """Writes a random JSON text, some of them wrong."""

    def __init__(self, rng):
        self.rng = rng
        self.wrong = rng.random() < 0.2

    def space(self):
        return "".join(self.rng.choices(["", " ", "\n", "\t", "\r"], [12, 2, 1, 1, 1], k=2))

    def string(self):
        parts = []
        for _ in range(self.rng.choice([0, 1, 1, 2, 3, 5])):
            if self.wrong and self.rng.random() < 0.03:
                parts.append(self.rng.choice(BROKEN))
            else:
                parts.append(self.rng.choice(ESCAPES if self.rng.random() < 0.3 else CHARACTERS))
        return '"' + "".join(part.replace('"', '\\"') if len(part) == 1 and part != "\\" else
                             ("\\\\" if part == "\\" else part) for part in parts) + '"'

    def number(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            return rng.choice(NUMBERS) if self.wrong or kind < 0.02 else rng.choice(NUMBERS[:11])
        if kind < 0.5:
            return str(rng.randint(-(2**53), 2**53))
        if kind < 0.8:
            number = 0.0
            while number == 0.0 or number != number or number in (float("inf"), float("-inf")):
                number = struct.unpack("<d", rng.randbytes(8))[0]
            return repr(number)
        return f"{rng.choice(['', '-'])}{rng.randint(0, 10**rng.randint(1, 12))}.{rng.randint(0, 10**9)}" + rng.choice(
            ["", f"e{rng.randint(-20, 8)}", f"E+{rng.randint(0, 3)}"]
        )

    def value(self, depth):
        rng = self.rng
        kind = rng.random() if depth < 6 else rng.random() * 0.6
        if kind < 0.1:
            return rng.choice(["null", "true", "false"])
        if kind < 0.35:
            return self.number()
        if kind < 0.6:
            return self.string()
        if kind < 0.75:
            items = [self.space() + self.value(depth + 1) + self.space() for _ in range(rng.randint(0, 4))]
            return "[" + ",".join(items) + "]"
        names = [self.string() for _ in range(rng.randint(0, 6))]
        if self.wrong and names and rng.random() < 0.1:
            names.append(rng.choice(names))
        members = [f"{self.space()}{name}{self.space()}:{self.space()}{self.value(depth + 1)}" for name in names]
        return "{" + ",".join(members) + self.space() + "}"

    def text(self):
        text = self.space() + self.value(0) + self.space()
        if self.rng.random() < 0.02:
            depth = self.rng.choice([31, 32, 33, 40])
            text = "[" * depth + "1" + "]" * depth
        if self.wrong and self.rng.random() < 0.4:
            at = self.rng.randrange(len(text)) if text else 0
            change = self.rng.choice(["", ",", "0", "]", "}", ":", '"', "NaN", "\ufeff", "\u00a0", "/", "+", "e", "."])
            text = text[:at] + change + text[at + self.rng.randint(0, 1):]
        return text


class Duplicate(Exception):
    pass


def unique(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Duplicate
    return members


def refuse(name):
    raise ValueError(name)


def nesting(value):
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 0


def reads_as_a_large_integer(value):
    """RFC 8785 writes such a double without a point, and no strict reader takes it back."""
    if isinstance(value, dict):
        return any(map(reads_as_a_large_integer, value.values()))
    if isinstance(value, list):
        return any(map(reads_as_a_large_integer, value))
    return isinstance(value, float) and 2**53 - 1 < abs(value) < 1e21


def classify(text):
    """The canonical form, or the name of the fault."""
    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except Duplicate:
        return None, "duplicate"
    except ValueError:
        return None, "malformed"
    try:
        form = rfc8785.dumps(value).decode()
    except rfc8785.IntegerDomainError:
        return None, "integer"
    except rfc8785.FloatDomainError:
        return None, "number"
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        return None, "surrogate"
    if nesting(value) > 32:
        return None, "depth"
    return form, "large" if reads_as_a_large_integer(value) else None


# What makes a good text a bad one, of one kind alone.
FAULTS = {
    "depth": lambda good: "[" * 33 + good + "]" * 33,
    "duplicate": lambda good: f'{{"a":{good},"b":1,"\\u0061":2}}',
    "integer": lambda good: f"[{good},9007199254740992]",
    "malformed": lambda good: f"[{good}",
    "number": lambda good: f"[{good},-1.5e309]",
    "surrogate": lambda good: f'["\\ud83d",{good}]',
}


def canonical(count, seed):
    rng = random.Random(seed)
    for number in range(count):
        text, only = Writer(rng).text(), None
        form, fault = classify(text)
        if fault is None and number % 5 == 0 and nesting(json.loads(text)) < 20:
            only = rng.choice(list(FAULTS))
            text = FAULTS[only](text)
            form, fault = classify(text)
            assert fault == only, (text, fault, only)
        print(json.dumps({"text": text, "form": form, "fault": fault, "isOnly": only is not None}))


match sys.argv[1:]:
    case ["sign"]:
        sign()
    case ["check"]:
        check()
    case ["canonical", count, seed]:
        canonical(int(count), int(seed))
    case _:
        sys.exit(__doc__)
