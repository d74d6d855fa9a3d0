"""A Slurm of its own for a test: munged, slurmctld and slurmd on this machine, one node with two
partitions, all files in one folder. Needs root."""

import os
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
START_S = 60
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
ReturnToService=2
SlurmdTimeout=30
InactiveLimit=0
KillWait=2
MinJobAge=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=first Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=second Nodes={host} MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def missing():
    """What keeps a Slurm from being started here; None if nothing does."""
    paths = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for name in PROGRAMS:
        if not shutil.which(name, path=paths):
            return f"{name} is not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "its daemons need root"


class Slurm:
    """Use as a context manager; `environment` is for programs that talk to it."""

    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.environment = {**os.environ, "SLURM_CONF": os.path.join(folder, "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin:/sbin"

    def start(self, *command):
        with open(os.path.join(self.folder, command[0] + ".out"), "w", encoding="utf-8") as file:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=file,
                                                 stderr=subprocess.STDOUT))  # fmt: skip

    def ask(self, *command):
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=START_S
        )

    def __enter__(self):
        for name in ("state", "spool"):
            os.mkdir(os.path.join(self.folder, name))
        key = os.path.join(self.folder, "munge.key")
        with open(key, "wb") as file:
            file.write(os.urandom(128))
        os.chmod(key, 0o400)
        with open(self.environment["SLURM_CONF"], "w", encoding="utf-8") as file:
            file.write(CONFIG.format(host=socket.gethostname().split(".")[0], folder=self.folder,
                                     cpus=os.cpu_count(), controller=free_port(),
                                     node=free_port()))  # fmt: skip
        names = ("key", "log", "pid", "seed")
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in names]
        try:
            self.start("munged", "--foreground", "--force", *files,
                       f"--socket={self.folder}/munge.socket")  # fmt: skip
            self.start("slurmctld", "-D", "-c")
            self.start("slurmd", "-D")
            end = time.monotonic() + START_S
            while "idle" not in self.ask("sinfo", "-h", "-o", "%T").stdout:
                if time.monotonic() > end:
                    raise AssertionError("Slurm did not come up:\n" + self.logs())
                time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def logs(self):
        found = ""
        for name in sorted(os.listdir(self.folder)):
            if name.endswith((".log", ".out")):
                with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                    found += f"{name}:\n{file.read()[-2000:]}\n"
        return found

    def __exit__(self, *_):
        for one in reversed(self.daemons):
            one.terminate()
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
