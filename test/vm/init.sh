#!/bin/busybox sh
# Process 1 of a guest. Its root is the machine's own root file system, whose changes stay in memory;
# the working tree is at /usr/local/lib/skbwhy. Runs /run/guest/command, tells its status, goes.
B=/bin/busybox
fail() { $B echo "guest: $*"; $B reboot -f; }
share() { $B mkdir -p "$2"; $B mount -t 9p -o "trans=virtio,version=9p2000.L,msize=262144,$3" "$1" "$2" || fail "no share $1"; }
new() { $B mkdir -p "/root/$2"; $B mount -t "$1" ${3:+-o "$3"} "$1" "/root/$2" || $B echo "guest: no $1"; }

$B mount -t proc proc /proc
for module in $($B cat /modules/order); do $B insmod "/modules/$module" || $B echo "guest: $module not loaded"; done
share control /control cache=none
. /control/settings
# it is only read
share machine /machine ro,cache=loose
$B mount -t tmpfs -o size=60% tmpfs /memory
$B mkdir /memory/changes /memory/work
$B mount -t overlay -o lowerdir=/machine,upperdir=/memory/changes,workdir=/memory/work overlay /root || fail "no overlay"

new devtmpfs dev
new devpts dev/pts ptmxmode=666
new tmpfs dev/shm
new proc proc
new sysfs sys
new cgroup2 sys/fs/cgroup
new bpf sys/fs/bpf
new debugfs sys/kernel/debug
new tracefs sys/kernel/tracing
new tmpfs run
new tmpfs tmp
$B mkdir -p /root/run/lock /root/run/netns
[ -e /root/dev/fd ] || $B ln -s /proc/self/fd /root/dev/fd
share tree /root/usr/local/lib/skbwhy ro,cache=loose
if [ -n "$MODULES" ]; then
  release=$($B uname -r)
  $B mkdir -p "/root/lib/modules/$release" /root/boot
  $B mount -o bind "/machine$MODULES/lib/modules/$release" "/root/lib/modules/$release"
  $B cp "/machine$MODULES/config" "/root/boot/config-$release"
fi
if [ -n "$FILES" ]; then share files /root/run/guest/files cache=none; fi
# the kernel asks for modules from here, not from where the command is
$B mkdir -p /sbin
printf '#!/bin/busybox sh\nexec /bin/busybox chroot /root /sbin/modprobe "$@"\n' >/sbin/modprobe
$B chmod 755 /sbin/modprobe
$B mkdir -p /root/run/guest/control
$B mount -o bind /control /root/run/guest/control
$B cp /control/command /root/run/guest/command
$B ip link set lo up
$B hostname guest
# "started" says that the command runs: a boot that hangs before can be tried again
$B touch /control/started
$B chroot /root /bin/bash /run/guest/command </root/dev/null >/control/stdout 2>/control/stderr
status=$?
$B sync
$B echo $status >/control/status
$B reboot -f
