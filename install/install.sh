#!/bin/sh
# Starts install.py, which lies in this program's run files or beside it.
for folder in "$0.runfiles/hakmem/install" "$(dirname "$0")"; do
    if [ -e "$folder/install.py" ]; then
        exec /usr/bin/python3 -B "$folder/install.py" "$@"
    fi
done
echo "install: install.py is not beside $0" >&2
exit 1
