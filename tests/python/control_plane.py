"""Runs the control plane of docs/control-plane.md for tests/it/control_plane_doc.rs.

    control_plane.py MODULE CLUSTER TOKEN CERTIFICATE KEY

MODULE is a file with the blocks of the document. The first line of output says the port and the fingerprint; then each line
of input is an order, answered with one line.
"""

import importlib.util
import json
import sys


def load(path):
    spec = importlib.util.spec_from_file_location("control_plane", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tell(value):
    print(json.dumps(value), flush=True)


def main():
    module = load(sys.argv[1])
    cluster, token, certificate, key = sys.argv[2:]
    macs = {"right": 0, "wrong": 0, "changed": 0}
    check_mac = module.check_mac

    def counted(value, method, target, body, mac_key):
        is_right = check_mac(value, method, target, body, mac_key)
        macs["right" if is_right else "wrong"] += 1
        # What somebody on the way has changed must not pass.
        for other in (("PUT", target, body), (method, target + "x", body), (method, target, body + b" ")):
            macs["changed"] += check_mac(value, *other, mac_key)
        macs["changed"] += check_mac(value, method, target, body, bytes(32))
        return is_right

    module.check_mac = counted
    owner = module.Owner()
    plane = module.ControlPlane(owner, cluster, token)
    port = plane.serve(certificate, key)
    tell({"port": port, "fingerprint": owner.entry(owner.root, "root")["kid"]})
    for line in sys.stdin:
        match json.loads(line):
            case ["send", kind, payload, is_secret]:
                tell(plane.result(plane.send(kind, payload, is_secret)))
            case ["forge", kind, payload]:
                honest, owner.job = owner.job, module.Ed25519PrivateKey.generate()
                job = plane.send(kind, payload)
                owner.job = honest
                tell(plane.result(job))
            case ["seen"]:
                sent = [{name: job[name] for name in job if name != "signature"} for job in plane.jobs]
                tell({"macs": macs, "bearers": len(plane.bearers), "sent": sent, "node": plane.node})
            case ["proof", value, method, target, bearer, identity_key]:
                tell(module.check_proof(value, method, target, cluster, bearer, identity_key))
            case ["derive", bearer]:
                tell(module.b64(module.mac_key_of_bearer(bearer, cluster)))


main()
