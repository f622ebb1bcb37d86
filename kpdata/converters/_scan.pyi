from typing_extensions import Buffer

Column = tuple[Buffer, Buffer, Buffer, Buffer, Buffer, Buffer, Buffer, int]

def scan(
    data: Buffer, start: int, stop: int, keys: tuple[bytes, ...], kinds: tuple[int, ...], powers: bytes
) -> tuple[int, list[Column], Buffer, Buffer, Buffer, Buffer, int] | None: ...
def weave(rows: int, columns: list[tuple[bytes, int, Buffer, Buffer, Buffer, Buffer]]) -> tuple[Buffer, Buffer]: ...
