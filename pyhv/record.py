"""``class X(Record)`` is a NamedTuple without ``typing``, whose import costs 13 ms of start-up.

Type checkers see typing.NamedTuple. At run time fields come from the annotations, which must
be strings (``from __future__ import annotations``), defaults from the class body.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as Record
else:
    from _collections import _tuplegetter

    def _new(cls, *values, **named):
        fields = cls._fields
        if len(values) > len(fields):
            raise TypeError(f"{cls.__name__}: {len(values)} values for {len(fields)} fields")
        if named or len(values) < len(fields):
            defaults, rest = cls._field_defaults, []
            for name in fields[len(values) :]:
                if name in named:
                    rest.append(named.pop(name))
                elif name in defaults:
                    rest.append(defaults[name])
                else:
                    raise TypeError(f"{cls.__name__}: no value for {name}")
            if named:
                raise TypeError(f"{cls.__name__}: no field {', '.join(named)}")
            values += tuple(rest)
        return tuple.__new__(cls, values)

    class _Meta(type):
        def __new__(meta, name, bases, body):
            if not any(isinstance(base, _Meta) for base in bases):
                return super().__new__(meta, name, bases, body)
            fields = tuple(body.get("__annotations__", ()))
            defaults = {field: body.pop(field) for field in fields if field in body}
            body.update({f: _tuplegetter(i, f) for i, f in enumerate(fields)})
            body.update(__slots__=(), _fields=fields, _field_defaults=defaults, __new__=_new)
            return super().__new__(meta, name, bases, body)

    class Record(tuple, metaclass=_Meta):
        """See the head of this file."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}

        def _asdict(self):
            """Return the fields by name."""
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changes):
            """Return a copy with some fields changed."""
            return type(self)(**{**self._asdict(), **changes})

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{type(self).__name__}({fields})"
