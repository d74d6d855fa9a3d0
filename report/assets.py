"""assets.py OUT NAME=FILE...: a C++ source with each file as a string (report/assets.h)."""

import sys

WIDTH = 2000  # of a literal: longer ones than 65,536 need not be understood by a compiler


def literal(data):
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in data
    )
    return f'    "{escaped}"'


def main(out, *assets):
    with open(out, "w", encoding="ascii") as file:
        file.write('// Made by report/assets.py.\n#include "report/assets.h"\n\n')
        file.write("namespace hakmem::report\n{\n\n")
        for asset in assets:
            name, path = asset.split("=", 1)
            with open(path, "rb") as source:
                data = source.read()
            parts = [literal(data[i : i + WIDTH]) for i in range(0, len(data), WIDTH)]
            file.write(f"extern const char {name}[];\nconst char {name}[] =\n")
            file.write("\n".join(parts) + ";\n\n")
        file.write("} // namespace hakmem::report\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
