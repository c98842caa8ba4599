"""Pick a host for the next call, and report how the call ended.

A caller picks from memory that the agent of this machine shares with it, without a
system call; where that is not there it asks the agent's Unix socket, and where that
is not there its UDP port. ``Host.source`` says which it was.

    caller = waystation.Caller("pay", "/run/waystation/agent.sock")
    with caller.pick() as host:
        call(host.address)          # an exception counts as a failure

The library is looked for as ``WAYSTATION_CLIENT_LIBRARY`` says, else where the system
keeps its libraries.
"""

import ctypes
import ctypes.util
import enum
import os
import threading
import time

__all__ = ["Caller", "End", "Host", "NoAgent", "NoHost", "WaystationError", "version"]


class WaystationError(Exception):
    """A pick or a report failed."""


class NoHost(WaystationError):
    """The agent knows no host for the next call, or refuses. Try again later."""


class NoAgent(WaystationError):
    """The agent cannot be reached or did not answer in time."""


class End(enum.IntEnum):
    """How a call ended."""

    OK = 0
    FAILED = 1
    OVERLOADED = 2
    REFUSED = 3
    TIMED_OUT = 4
    CANCELLED = 5


class _Load(ctypes.Structure):
    _fields_ = [("in_flight", ctypes.c_uint32), ("latency_us", ctypes.c_uint32)]


class _Address(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 128)]


class _Host(ctypes.Structure):
    _fields_ = [
        ("address", ctypes.c_char * 128),
        ("source", ctypes.c_int),
        ("pick", ctypes.c_uint64),
    ]


def _load():
    path = os.environ.get("WAYSTATION_CLIENT_LIBRARY")
    path = path or ctypes.util.find_library("waystation_client_c") or "libwaystation_client_c.so"
    library = ctypes.CDLL(path)
    caller = ctypes.c_void_p
    host = ctypes.POINTER(_Host)
    route = [caller, ctypes.POINTER(_Address), ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]
    for name, result, arguments in [
        ("waystation_version", ctypes.c_char_p, []),
        ("waystation_source_name", ctypes.c_char_p, [ctypes.c_int]),
        ("waystation_caller_new", caller, [ctypes.c_char_p, ctypes.c_char_p]),
        ("waystation_caller_clone", caller, [caller]),
        (
            "waystation_caller_use_lars",
            ctypes.c_int,
            [caller, ctypes.c_int32, ctypes.c_int32, ctypes.c_uint16],
        ),
        ("waystation_pick", ctypes.c_int, [caller, host]),
        ("waystation_pick_by", ctypes.c_int, [caller, ctypes.c_uint64, host]),
        ("waystation_get_route", ctypes.c_int, route),
        ("waystation_reg_init", ctypes.c_int, route),
        (
            "waystation_report_load",
            ctypes.c_int,
            [caller, host, ctypes.c_int, ctypes.c_uint64, ctypes.POINTER(_Load)],
        ),
        ("waystation_error", ctypes.c_char_p, [caller]),
        ("waystation_caller_free", None, [caller]),
    ]:
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


_library = _load()


def _check(status, error):
    if status != 0:
        kind = {1: NoHost, 2: NoAgent}.get(status, WaystationError)
        raise kind(error.decode())


def version():
    """The version of the library."""
    return _library.waystation_version().decode()


class Host:
    """A host for one call. Report its end, or use it in a ``with`` block."""

    def __init__(self, caller, told, began):
        self._caller = caller
        self._told = told
        self._began = began
        #: Where to call it: ``IP:PORT``.
        self.address = told.address.decode()
        #: Which way the pick went: ``segment``, ``socket``, ``udp`` or ``kept``.
        self.source = _library.waystation_source_name(told.source).decode()

    def report(self, end=End.OK, load=None):
        """Tell how the call ended. What comes after the first time is ignored.

        ``load`` is what the reply told of the host: (requests in flight, median time of
        its recent answers in microseconds). The agent's policy compares hosts by it.
        """
        latency = time.monotonic_ns() - self._began
        self._caller._report(self._told, end, latency, load or (0, 0))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.report(End.OK)
        elif issubclass(kind, TimeoutError):
            self.report(End.TIMED_OUT)
        elif issubclass(kind, ConnectionError):
            self.report(End.REFUSED)
        elif issubclass(kind, Exception):
            self.report(End.FAILED)
        else:
            # The program is interrupted: that says nothing about the host.
            self.report(End.CANCELLED)
        return False


class Caller:
    """Picks hosts of one service. Any number of threads may use it; they take turns."""

    def __init__(self, service, socket, lars=None):
        """``lars`` is (modid, cmdid) or (modid, cmdid, first_port): the last resort by UDP."""
        self._lock = threading.Lock()
        self._caller = _library.waystation_caller_new(
            str(service).encode(), os.fsencode(socket)
        )
        if not self._caller:
            raise ValueError("service and socket are texts without zeros")
        if lars is not None:
            modid, cmdid, *port = lars
            _library.waystation_caller_use_lars(self._caller, modid, cmdid, *(port or [0]))

    def pick(self, key=None):
        """The host for the next call.

        Under the agent's policy ``maglev`` calls of one ``key``, a number below 2^64,
        go to one host for as long as that is well; the agent is asked each time.

        Raises NoHost or NoAgent.
        """
        told = _Host()
        with self._lock:
            if key is None:
                status = _library.waystation_pick(self._caller, ctypes.byref(told))
            else:
                status = _library.waystation_pick_by(self._caller, key, ctypes.byref(told))
            error = _library.waystation_error(self._caller) if status else b""
        _check(status, error)
        return Host(self, told, time.monotonic_ns())

    def get_route(self):
        """The addresses of all hosts of the service, whether they may be picked or not.

        Raises NoHost or NoAgent.
        """
        return self._route(_library.waystation_get_route)

    def reg_init(self):
        """As ``get_route``, to be called before the first pick: it asks until there is a
        host, three times with pauses of 50 ms. There may still be none.
        """
        return self._route(_library.waystation_reg_init)

    def _route(self, ask):
        room = 64
        while True:
            addresses = (_Address * room)()
            count = ctypes.c_size_t()
            with self._lock:
                status = ask(self._caller, addresses, room, ctypes.byref(count))
                error = _library.waystation_error(self._caller) if status else b""
            _check(status, error)
            if count.value <= room:
                return [one.text.decode() for one in addresses[: count.value]]
            # There may be one more by then.
            room = count.value + 8

    def _report(self, told, end, latency, load):
        with self._lock:
            _library.waystation_report_load(
                self._caller, ctypes.byref(told), int(end), latency, ctypes.byref(_Load(*load))
            )

    def close(self):
        """Let go of what the agent gave. The caller is of no use afterwards."""
        with self._lock:
            caller, self._caller = self._caller, None
            _library.waystation_caller_free(caller)

    def __del__(self):
        if getattr(self, "_caller", None):
            self.close()
