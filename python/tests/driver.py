import shoal as api

import os, sys
import shoal

shoal.init(num_cpus=1)

@shoal.remote
def pid():
    return os.getpid(), os.getppid()

shoal.get(pid.remote())
sys.path.insert(0, sys.argv[1])
import test_security as look

pids = [pid for pid in look.cluster_processes() if pid != os.getppid()]
print(len(pids) >= 3, [look.internet_ports(table, pids) for table in ("tcp", "tcp6", "udp", "udp6")])
