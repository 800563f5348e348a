#!/usr/bin/env bash
# The kernel's own packet generator (Documentation/networking/pktgen.rst), for a real NIC. It sends faster than any program,
# but measures nothing and does not answer ARP. Count the packets that arrive after the gateway.
#
#   kernel-pktgen.sh -i eth1 -d 10.96.0.50 -m 02:00:00:00:00:01 [-p 80] [-s 60] [-c 100] [-f 100] [-r PPS] [-t CPUS] [-T SECONDS]
#
#   -i  interface             -d  Service's address      -m  the gateway's hardware address   -p  its port (UDP)
#   -s  bytes without FCS     -c  client addresses from 198.18.0.0 on, at most 65000           -f  ports per client: flows = -c × -f
#   -r  packets/s per CPU, 0 as fast as possible           -t  CPUs, one transmit queue each    -T  seconds, 0 until ^C
#
# Addresses and ports are chosen at random for each packet (pktgen's own "flows" keep only the destination together).
# Checksums: UDP packets have none (zero), which translation keeps. Needs root, the module pktgen, and an interface that is
# up. Virtual interfaces that share buffers (veth, bridges) need clone_skb 0, which is set.
set -euo pipefail

usage() {
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

device='' target='' mac='' port=80 size=60 clients=100 ports=100 rate=0 cpus=1 seconds=10
while getopts i:d:m:p:s:c:f:r:t:T:h option; do
    case $option in
        i) device=$OPTARG ;; d) target=$OPTARG ;; m) mac=$OPTARG ;; p) port=$OPTARG ;;
        s) size=$OPTARG ;; c) clients=$OPTARG ;; f) ports=$OPTARG ;; r) rate=$OPTARG ;;
        t) cpus=$OPTARG ;; T) seconds=$OPTARG ;; *) usage ;;
    esac
done
[[ $device && $target && $mac ]] || usage
((clients >= 1 && clients <= 65000)) || { echo "-c $clients: 1 to 65000 client addresses" >&2; exit 2; }
((ports >= 1 && ports <= 64512)) || { echo "-f $ports: 1 to 64512 ports per client" >&2; exit 2; }
((EUID == 0)) || { echo "kernel-pktgen.sh: run it as root" >&2; exit 1; }
[[ -e /sys/class/net/$device ]] || { echo "no interface $device" >&2; exit 1; }
modprobe pktgen 2>/dev/null || true
[[ -d /proc/net/pktgen ]] || { echo "this kernel has no pktgen (CONFIG_NET_PKTGEN)" >&2; exit 1; }

readonly DIRECTORY=/proc/net/pktgen

# Writes one command to one of pktgen's files. The kernel's result is in the file.
tell() {
    local file=$DIRECTORY/$1
    shift
    if ! printf '%s\n' "$*" >"$file"; then
        echo "pktgen refused \"$*\": $(grep -s Result: "$file")" >&2
        exit 1
    fi
}

stop() {
    tell pgctrl stop 2>/dev/null || true
}
trap stop INT TERM

tell pgctrl reset
for ((cpu = 0; cpu < cpus; cpu++)); do
    name="$device@$cpu"
    tell "kpktgend_$cpu" "add_device $name"
    tell "$name" "queue_map_min $cpu"
    tell "$name" "queue_map_max $cpu"
    tell "$name" "count 0"
    tell "$name" "clone_skb 0"
    tell "$name" "pkt_size $size"
    tell "$name" "delay 0"
    ((rate == 0)) || tell "$name" "ratep $rate"
    tell "$name" "dst $target"
    tell "$name" "dst_mac $mac"
    tell "$name" "src_min 198.18.0.1"
    tell "$name" "src_max 198.18.$((clients / 256)).$((clients % 256))"
    tell "$name" "flag IPSRC_RND"
    tell "$name" "udp_src_min 1024"
    tell "$name" "udp_src_max $((1023 + ports))"
    tell "$name" "flag UDPSRC_RND"
    tell "$name" "udp_dst_min $port"
    tell "$name" "udp_dst_max $port"
done

if ((seconds > 0)); then
    (sleep "$seconds" && echo stop >"$DIRECTORY/pgctrl") &
fi
# Returns when pktgen is stopped.
tell pgctrl start
for ((cpu = 0; cpu < cpus; cpu++)); do
    echo "$device@$cpu: $(sed -n 's/^ *\([0-9]*pps .*\)/\1/p' "$DIRECTORY/$device@$cpu")"
done
tell pgctrl reset
