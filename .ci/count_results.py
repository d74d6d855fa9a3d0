"""count_results.py FILE: counts tests in what Bazel wrote to --build_event_json_file, and prints
`N passed, N failed`.

A test that was never run, because it or something that it needs did not build, counts as failed.
Exits with 1 if a test failed, if there was none, or if Bazel did not come to its end. (The files in
testlogs would not do: old ones stay there.)
"""

import json
import sys


def main():
    tests = {}
    finished = False
    with open(sys.argv[1]) as stream:
        for line in stream:
            event = json.loads(line)
            identity = event["id"]
            if "configured" in event and "testSize" in event["configured"]:
                tests.setdefault(identity["targetConfigured"]["label"], False)
            elif "testSummary" in event:
                status = event["testSummary"]["overallStatus"]
                tests[identity["testSummary"]["label"]] = status in ("PASSED", "FLAKY")
            elif "finished" in event:
                finished = event["finished"].get("overallSuccess", False)
    failed = sorted(label for label, passed in tests.items() if not passed)
    for label in failed:
        print("failed: " + label)
    if not finished and not failed:
        print("Bazel did not succeed, although no test failed: see above")
    print("%d passed, %d failed" % (len(tests) - len(failed), len(failed)))
    return 0 if finished and tests and not failed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (IndexError, OSError, ValueError) as error:
        print("count_results: " + str(error))
        print("0 passed, 0 failed")
        sys.exit(1)
