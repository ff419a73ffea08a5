"""torch.save files whose pickle does more than describe tensors.

The payload of each runnable one writes into the canary file, so a test can show that a real unpickler would run it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .evil_case import CANARY, Case, torch_case
from .pickle_assembler import (
    MARK,
    PROTO,
    STOP,
    archive,
    axes,
    blob,
    named,
    number,
    short,
    state_dict,
    storage,
    tensor,
    text,
    whole,
)  # fmt: skip

#: Accepted: what the cases differ from in one point.
HONEST = archive(whole(state_dict(tensor())))


def _command(directory: Path) -> str:
    return f"echo gone > {directory / CANARY}"


def _expression(directory: Path) -> str:
    return f"open({str(directory / CANARY)!r}, 'w').close()"


# Each of these runs the command when a real unpickler reads it.
RUNNABLE: dict[str, Callable[[Path], bytes]] = {
    "GLOBAL and REDUCE": lambda d: named("os", "system") + text(_command(d)) + b"\x85R",
    "GLOBAL posix": lambda d: named("posix", "system") + text(_command(d)) + b"\x85R",
    "STACK_GLOBAL": lambda d: short("os") + short("system") + b"\x93" + text(_command(d)) + b"\x85R",
    "STACK_GLOBAL from the memo": lambda d: (
        short("os") + b"\x940" + short("system") + b"\x940h\0h\1\x93" + text(_command(d)) + b"\x85R"
    ),
    "INST": lambda d: MARK + text(_command(d)) + b"ios\nsystem\n",
    "OBJ": lambda d: MARK + named("os", "system") + text(_command(d)) + b"o",
    "NEWOBJ": lambda d: named("subprocess", "Popen") + text("true") + b"\x85\x81" + b"0" + _shell(d),
    "NEWOBJ_EX": lambda d: named("collections", "OrderedDict") + b")}\x92" + b"0" + _shell(d),
    "BUILD of a class": lambda d: (
        named("collections", "OrderedDict") + b")\x81}" + text("x") + _shell(d) + b"sb"
    ),
    "in a dict that is then dropped": lambda d: b"}" + text("x") + _shell(d) + b"s0}",
    "in a tuple": lambda d: MARK + _shell(d) + b"t",
    "as a dict value": lambda d: state_dict(tensor(), _shell(d)),
    "as a dict key": lambda d: b"}" + _shell(d) + tensor() + b"s",
    "as a shape": lambda d: (
        named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + number(0) + _shell(d) + axes((1,)) + b"\x89}tR"
    ),
    "as a storage key": lambda d: (
        MARK + text("storage") + named("torch", "FloatStorage") + _shell(d) + text("cpu") + b"K\1tQ"
    ),
    "behind an honest dict": lambda d: state_dict(tensor()) + _shell(d) + b"0",
    "in the attributes of the dict": lambda d: (
        named("collections", "OrderedDict") + b")R}" + text("_metadata") + _shell(d) + b"sb"
    ),
    "eval": lambda d: named("builtins", "eval") + text(_expression(d)) + b"\x85R",
    "exec": lambda d: named("builtins", "exec") + text(_expression(d)) + b"\x85R",
    "Python 2 spelling": lambda d: named("__builtin__", "eval") + text(_expression(d)) + b"\x85R",
    "truncate": lambda d: named("os", "truncate") + text(str(d / CANARY)) + b"K\0\x86R",
    "unlink": lambda d: named("os", "unlink") + text(str(d / CANARY)) + b"\x85R",
    "getattr": lambda d: (
        named("builtins", "getattr") + named("importlib", "import_module") + text("os") + b"\x85R"
        + text("system") + b"\x86R" + text(_command(d)) + b"\x85R"
    ),
    "a partial": lambda d: (
        named("functools", "partial") + named("os", "system") + text(_command(d)) + b"\x86R" + b")R"
    ),
    "map and list": lambda d: (
        named("builtins", "list") + named("builtins", "map") + named("os", "system") + text(_command(d))
        + b"\x85\x86R\x85R"
    ),
    "a nested unpickler": lambda d: (
        named("pickle", "loads") + blob(PROTO + named("os", "system") + text(_command(d)) + b"\x85R.") + b"\x85R"
    ),
}  # fmt: skip


def _shell(directory: Path) -> bytes:
    return named("os", "system") + text(_command(directory)) + b"\x85R"


_GLOBALS = [
    "os.system", "os.popen", "os.execv", "os.remove", "posix.system", "nt.system", "subprocess.Popen",
    "subprocess.check_output", "pty.spawn", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.open",
    "builtins.getattr", "builtins.__import__", "builtins.globals", "__builtin__.eval", "importlib.import_module",
    "runpy.run_path", "runpy._run_code", "code.InteractiveInterpreter", "bdb.Bdb", "pdb.run", "cProfile.run",
    "profile.run", "timeit.timeit", "trace.Trace", "doctest.debug_script", "pydoc.locate", "pydoc.pipepager",
    "pickle.loads", "_pickle.loads", "marshal.loads", "dill.loads", "joblib.load", "shelve.open",
    "types.FunctionType", "types.CodeType", "operator.attrgetter", "operator.methodcaller", "functools.partial",
    "itertools.starmap", "ctypes.CDLL", "cffi.FFI", "socket.create_connection", "urllib.request.urlopen",
    "http.client.HTTPSConnection", "smtplib.SMTP", "ftplib.FTP", "webbrowser.open", "shutil.rmtree", "pathlib.Path",
    "tempfile.mktemp", "zipfile.ZipFile", "sqlite3.connect", "asyncio.run", "multiprocessing.Process",
    "threading.Thread", "signal.raise_signal", "sys.exit", "site.execsitecustomize", "pip.main", "venv.create",
    "ensurepip._run_pip", "distutils.spawn.spawn", "idlelib.run.Executive", "lib2to3.pgen2.grammar.Grammar.loads",
    "test.support.script_helper.assert_python_ok", "numpy.load", "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy.testing._private.utils.runstring", "torch.load", "torch.hub.load",
    "torch.jit.load", "torch.storage._load_from_bytes", "torch.serialization.load", "torch.ops.load_library",
    "torch.utils.cpp_extension.load_inline", "torch._dynamo.guards.exec",
    "torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_wrapper_subclass",
    "torch._tensor._rebuild_from_type_v2", "torch.nn.modules.linear.Linear", "torch.FloatStorage.__init__",
    "torch.Tensor", "torch.device", "torch.QInt8Storage", "collections.OrderedDict.__init__",
    "collections.defaultdict", "collections.Counter", "peft.tuners.lora.LoraConfig",
    "transformers.TrainingArguments", "accelerate.state.AcceleratorState", "__main__.Model",
]  # fmt: skip


def _split(name: str) -> tuple[str, str]:
    module, _, attribute = name.rpartition(".")
    return module, attribute


# Each of these asks for a global; none is on the list, whatever is done with it.
_ASKS: dict[str, bytes] = {
    **{f"global {name}": named(*_split(name)) + b")R" for name in _GLOBALS},
    **{f"stack global {name}": short(_split(name)[0]) + short(_split(name)[1]) + b"\x93" for name in _GLOBALS[::10]},
    "a dotted name": named("os", "system.__call__") + b")R",
    "a dotted name of an honest module": named("torch._utils", "_rebuild_tensor_v2.__globals__"),
    "a dotted name of an honest class": named("collections", "OrderedDict.__class__"),
    "an empty module": named("", "eval"),
    "an honest name with a space": named("torch", "FloatStorage "),
    "a name of two words": named("torch._utils _rebuild_tensor_v2", ""),
    "a full-width name": named("\uff4f\uff53", "system"),
    "a name without an end": b"c" + b"a" * 5000,
    "a name that is not UTF-8": b"c\xff\n\xff\n",
    "a stack global of numbers": b"K\1K\2\x93",
    "a stack global of a tuple": b")" + short("x") + b"\x93",
    "INST of an honest class": MARK + b"icollections\nOrderedDict\n",
    "OBJ of an honest class": MARK + named("collections", "OrderedDict") + b"o",
    "NEWOBJ of an honest class": named("collections", "OrderedDict") + b")\x81",
    "NEWOBJ_EX of an honest class": named("collections", "OrderedDict") + b")}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"P0\n",
    "NEXT_BUFFER": b"\x97",
    "READONLY_BUFFER": b"\x97\x98",
    "BINBYTES": blob(b"x"),
    "LONG4": b"\x8b\4\0\0\0\1\0\0\0",
    "protocol 0 text": b"S'x'\n",
    "an unknown opcode": b"\xff",
}

# Each of these stays within the lists and breaks a rule.
_LIES: dict[str, bytes] = {
    "a call of a dict": b"})R",
    "a call of a text": text("os.system") + b")R",
    "a call of a dtype": named("torch", "uint16") + b")R",
    "a call of a storage class": named("torch", "FloatStorage") + number(1) + b"\x85R",
    "OrderedDict of arguments": named("collections", "OrderedDict") + MARK + b"]\x85tR",
    "a state on a tensor": state_dict(tensor() + b"}b"),
    "a state on a global": named("collections", "OrderedDict") + b"}b",
    "a state that is a tuple": b"})b",
    "items of a tensor": tensor() + text("x") + b"K\1s",
    "items of a global": named("torch", "FloatStorage") + text("x") + b"K\1s",
    "an odd number of items": b"}" + MARK + text("x") + b"u",
    "a key that is a number": b"}K\1" + tensor() + b"s",
    "a key that is a list": b"}]" + tensor() + b"s",
    "a key twice": b"}" + MARK + (text("a") + tensor()) * 2 + b"u",
    "a key twice in two sets": b"}" + (text("a") + tensor() + b"s") * 2,
    "append to a dict": b"}K\1a",
    "an empty name": b"}" + text("") + tensor() + b"s",
    "a control character in a name": b"}" + text("a\n") + tensor() + b"s",
    "a surrogate in a name": b"}" + text("\ud800") + tensor() + b"s",
    "a persistent id of a module": MARK + text("module") + named("torch", "FloatStorage") + text("0") * 2 + b"K\1tQ",
    "a persistent id of a text": text("storage") + b"Q",
    "a persistent id of a list": b"]Q",
    "a storage of no class": state_dict(tensor(source=MARK + text("storage") + text("x") + text("0") * 2 + b"K\4tQ")),
    "a storage of a function": state_dict(tensor(source=storage(kind=("torch._utils", "_rebuild_tensor_v2")))),
    "a storage key with a path": state_dict(tensor(source=storage("../data.pkl"))),
    "a storage key that is absolute": state_dict(tensor(source=storage("/etc/passwd"))),
    "a storage key in other digits": state_dict(tensor(source=storage("\u0660"))),
    "a storage that is missing": state_dict(tensor(source=storage("1"))),
    "a storage larger than its member": state_dict(tensor(source=storage(numel=5))),
    "a storage smaller than its member": state_dict(tensor(source=storage(numel=3), shape=(3,), stride=(1,))),
    "a storage of negative size": state_dict(tensor(source=storage(numel=-1))),
    "a storage of 2^62 elements": state_dict(tensor(source=storage(numel=2**62))),
    "one storage with two sizes": state_dict(tensor(), tensor(source=storage(kind=("torch", "HalfStorage"), numel=4))),
    "a storage without a dtype": state_dict(tensor(source=storage(kind=("torch.storage", "UntypedStorage"), numel=16))),
    "an offset beyond the storage": state_dict(tensor(offset=1)),
    "an offset far beyond the storage": state_dict(tensor(offset=2**62)),
    "a negative offset": state_dict(tensor(offset=-1)),
    "a shape beyond the storage": state_dict(tensor(shape=(3, 2), stride=(2, 1))),
    "a huge shape": state_dict(tensor(shape=(2**62, 2**62), stride=(2**62, 1))),
    "a negative shape": state_dict(tensor(shape=(-2, -2), stride=(-2, 1))),
    "a negative stride": state_dict(tensor(shape=(4,), stride=(-1,), offset=3)),
    "stride zero, expanding": state_dict(tensor(shape=(2**40,), stride=(0,))),
    "overlapping strides": state_dict(tensor(shape=(3, 2), stride=(1, 1))),
    "a stride too few": state_dict(tensor(shape=(2, 2), stride=(1,))),
    "65 axes": state_dict(tensor(shape=(1,) * 65, stride=(1,) * 65)),
    "a shape of booleans": state_dict(
        named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + b"K\0\x88\x85K\1\x85\x89}tR"
    ),
    "a conjugate view": state_dict(tensor(tail=b"}" + text("conj") + b"\x88s")),
    "too many arguments": state_dict(tensor(tail=b"}}")),
    "hooks on a tensor": state_dict(
        named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + b"K\0K\4\x85K\1\x85\x89}"
        + text("x") + b"K\1stR"
    ),
    "a parameter of a number": state_dict(named("torch._utils", "_rebuild_parameter") + b"K\1\x88}\x87R"),
    "not a dict": tensor(),
    "a list of tensors": b"]" + tensor() + b"a",
    "a nested dict": state_dict(state_dict(tensor())),
    "a dict of numbers": state_dict(b"K\1"),
    "a dict of storages": state_dict(storage()),
    "a dict of globals": state_dict(named("torch", "FloatStorage")),
    "a transposed tensor": state_dict(tensor(stride=(1, 2))),
}  # fmt: skip

# Doubles the tuple on the stack 200 times.
_LAUGHS = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(200))
_DEEP = b")" + b"\x85" * 100_000

# Each of these is malformed, or grows without end.
_BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "only a stop": b".",
    "no protocol": state_dict(tensor()) + STOP,
    "protocol 0": b"\x80\x00" + state_dict(tensor()) + STOP,
    "protocol 6": b"\x80\x06" + state_dict(tensor()) + STOP,
    "protocol in the middle": PROTO + PROTO + b"}.",
    "no stop": PROTO + state_dict(tensor()),
    "bytes after the stop": whole(state_dict(tensor())) + b"cos\nsystem\n",
    "two pickles": whole(state_dict(tensor())) * 2,
    "two values": PROTO + b"}}.",
    "an empty stack": PROTO + b"R.",
    "an open mark": PROTO + b"(}.",
    "a value below the mark": PROTO + b"}K\1(s.",
    "a tuple over the mark": PROTO + b"}K\1(\x86.",
    "no mark": PROTO + b"}t.",
    "an unknown memo": PROTO + b"h\5.",
    "text beyond the end": PROTO + b"X\xff\xff\xff\xff.",
    "a frame beyond the end": b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    "a cyclic dict": whole(b"}q\0" + text("a") + b"h\0s"),
    "a cyclic list": whole(b"]q\0h\0a"),
    "a cyclic list as a shape": whole(
        state_dict(named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + b"K\0]q\0h\0ah\0\x89}tR")
    ),
    "a deep tuple": whole(_DEEP),
    "a deep tuple as a shape": whole(
        state_dict(named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + b"K\0" + _DEEP + b")\x89}tR")
    ),
    "a deep tuple that is called": whole(_DEEP + b")R"),
    "deep marks": PROTO + MARK * 1_000_000 + STOP,
    "a deep stack": PROTO + b")" * 1_000_000 + STOP,
    "a billion laughs": whole(b")" + _LAUGHS),
    "a billion laughs as a shape": whole(
        state_dict(named("torch._utils", "_rebuild_tensor_v2") + MARK + storage() + b"K\0)" + _LAUGHS + b")\x89}tR")
    ),
    "a dict that holds itself twice": whole(b"}q\0" + b"(" + text("a") + b"h\0" + text("b") + b"h\0u"),
    "three million operations": PROTO + b"}" + b"q\0" * 3_000_000 + STOP,
    "a wide memo": PROTO + b"}" + b"".join(b"r" + struct.pack("<I", i) for i in range(1_000_001)) + STOP,
    "a huge memo index": PROTO + b"}r\xff\xff\xff\xffj\xfe\xff\xff\xff.",
}  # fmt: skip


def _runnable(value: Callable[[Path], bytes], directory: Path) -> bytes:
    return archive(whole(value(directory)))


PICKLES: list[Case] = [
    *(torch_case(f"runs: {name}", partial(_runnable, value)) for name, value in RUNNABLE.items()),
    *(torch_case(name, archive(whole(value))) for name, value in (_ASKS | _LIES).items()),
    *(torch_case(name, archive(value)) for name, value in _BROKEN.items()),
]
