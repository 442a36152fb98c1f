#!/usr/bin/env bash
# A real SLURM of some nodes on this one machine, for the tests marked "slurm". Needs root, and on Debian or Ubuntu
# installs what is missing (slurm-wlm, munge).
#
#   scripts/slurm_local.sh start FOLDER [NODES]     then: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/slurm_local.sh stop FOLDER              ends what was started, and nothing else
#
# FOLDER and those above it must be readable for the user "munge": not below /root. One cluster at a time: ports are fixed.
set -euo pipefail

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
[ $# -ge 2 ] || usage
folder=$(mkdir -p "$2" && cd "$2" && pwd -P)
nodes=${3:-2}

install() {
    if command -v slurmctld > /dev/null && command -v munged > /dev/null; then return; fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
}

start_munge() {
    mkdir -p "$folder/munge"
    head -c 1024 /dev/urandom > "$folder/munge/key"
    chown -R munge: "$folder/munge"
    chmod 700 "$folder/munge"
    chmod 400 "$folder/munge/key"
    chmod 711 "$folder/munge"  # jobs connect to the socket
    setpriv --reuid munge --regid munge --clear-groups munged --force --key-file "$folder/munge/key" \
        --socket "$folder/munge/socket" --pid-file "$folder/munge/pid" --log-file "$folder/munge/log" \
        --seed-file "$folder/munge/seed"
}

write_configuration() {
    local host number
    host=$(hostname -s)
    getent hosts "$host" > /dev/null || echo "127.0.0.1 $host" >> /etc/hosts
    cat > "$folder/slurm.conf" << END
ClusterName=local
SlurmctldHost=$host
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool_%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd_%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
KillWait=10
MpiDefault=none
END
    for number in $(seq "$nodes"); do
        echo "NodeName=node$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((17000 + number))" \
            "CPUs=$(nproc) RealMemory=2000 State=UNKNOWN" >> "$folder/slurm.conf"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >> "$folder/slurm.conf"
}

start() {
    local number
    install
    mkdir -p "$folder/state"
    start_munge
    write_configuration
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    for number in $(seq "$nodes"); do
        mkdir -p "$folder/spool_node$number"
        slurmd -N "node$number"
    done
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --states=idle --format=%D 2> /dev/null)" = "$nodes" ]; then
            echo "export SLURM_CONF=$SLURM_CONF"
            return
        fi
        sleep 0.5
    done
    echo "The nodes did not come up:" >&2
    sinfo >&2 || true
    tail -n 5 "$folder"/*.log >&2
    exit 1
}

stop() {
    local file
    for file in "$folder"/slurmd_*.pid "$folder/slurmctld.pid" "$folder/munge/pid"; do
        if [ -f "$file" ]; then kill "$(cat "$file")" 2> /dev/null || true; fi
    done
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
