"""Run by the tests of this package: python3 client.py SOCKET FIRST_PORT HOST…"""

import sys

import waystation

socket, first_port, *hosts = sys.argv[1:]
assert waystation.version(), "it has a version"

caller = waystation.Caller("pay", socket)
assert sorted(caller.reg_init()) == sorted(hosts), caller.reg_init()
assert sorted(caller.get_route()) == sorted(hosts), caller.get_route()
for _ in range(200):
    caller.pick().report(waystation.End.OK, load=(7, 900))
seen = set()
for _ in range(200):
    with caller.pick() as host:
        assert host.address in hosts, host.address
        assert host.source == "segment", host.source
        seen.add(host.address)
assert seen, "some host was picked"

with caller.pick(key=2**64 - 1) as host:
    assert host.source == "socket" and host.address in hosts, (host.source, host.address)

try:
    with caller.pick() as host:
        raise RuntimeError("the call failed")
except RuntimeError:
    pass
failed = caller.pick()
failed.report(waystation.End.TIMED_OUT)
failed.report(waystation.End.OK)

try:
    waystation.Caller("nobody", socket).pick()
except waystation.NoHost as error:
    assert "nobody" in str(error), error
else:
    raise AssertionError("nobody offers it")
try:
    waystation.Caller("nobody", socket).get_route()
except waystation.NoHost as error:
    assert "nobody" in str(error), error
else:
    raise AssertionError("nobody offers it")

try:
    waystation.Caller("pay", socket + ".none").pick()
except waystation.NoAgent:
    pass
else:
    raise AssertionError("nobody is there")

lars = waystation.Caller("pay", socket + ".none", lars=(1, 1, int(first_port)))
for _ in range(60):
    try:
        host = lars.pick()
        break
    except waystation.NoAgent:
        pass  # an answer by UDP may be late on a machine that is busy
with host:
    assert host.source == "udp" and host.address in hosts, (host.source, host.address)

caller.close()
print("done", sorted(seen))
