"""Continues a prompt with gavel's shared library, through ctypes alone.

    python3 generate.py libgavel.so MODEL DRAFT PROMPT
"""

import ctypes
import sys


class Piece(ctypes.Structure):
    """gavel_piece"""

    _fields_ = [
        ("text", ctypes.POINTER(ctypes.c_char)),
        ("text_bytes", ctypes.c_size_t),
        ("tokens", ctypes.POINTER(ctypes.c_uint32)),
        ("reasons", ctypes.POINTER(ctypes.c_int32)),
        ("acceptability", ctypes.POINTER(ctypes.c_float)),
        ("count", ctypes.c_size_t),
    ]


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Piece), ctypes.c_void_p)


class Gavel:
    """The functions that this program calls; a status other than 0 raises."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.gavel_last_error.restype = ctypes.c_char_p
        self.library.gavel_options_new.restype = ctypes.c_void_p
        self.library.gavel_options_free.restype = None
        self.library.gavel_engine_close.restype = None

    def call(self, name, *args):
        if getattr(self.library, name)(*args) != 0:
            raise RuntimeError(self.library.gavel_last_error().decode())

    def options(self, values):
        options = ctypes.c_void_p(self.library.gavel_options_new())
        for name, value in values.items():
            self.call("gavel_options_set", options, name.encode(), value.encode())
        return options

    def open(self, **values):
        engine, options = ctypes.c_void_p(), self.options(values)
        try:
            self.call("gavel_engine_open", options, ctypes.byref(engine))
        finally:
            self.library.gavel_options_free(options)
        return engine

    def generate(self, engine, prompt, show, **values):
        options = self.options(values)
        callback = CALLBACK(lambda piece, _: show(piece.contents))
        try:
            self.call("gavel_engine_generate", engine, options, prompt.encode(), callback, None, None)
        finally:
            self.library.gavel_options_free(options)


def main(library, model, draft, prompt):
    gavel = Gavel(library)
    engine = gavel.open(model=model, draft=draft, chat="1", gamma="8")
    reasons = [0, 0, 0, 0]

    def show(piece):
        print(piece.text[: piece.text_bytes].decode(), end="", flush=True)
        for reason in piece.reasons[: piece.count]:
            reasons[reason] += 1
        return 0

    gavel.generate(engine, prompt, show, **{"rule": "typical", "max-tokens": "200"})
    gavel.library.gavel_engine_close(engine)
    aligned, judged, bonus, residual = reasons
    print(f"\naligned {aligned}, judged {judged}, bonus {bonus}, residual {residual}", file=sys.stderr)
    try:
        gavel.open(model="/no/such/folder")
    except RuntimeError as error:
        print(f"as expected: {error}", file=sys.stderr)
    else:
        sys.exit("a model that is not there was opened")


if __name__ == "__main__":
    main(*sys.argv[1:])
