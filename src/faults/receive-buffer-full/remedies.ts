import type { Remedy } from '../../explain/finding.js';

/**
 * @param node namespace of the socket
 * @param shared the memory of all UDP sockets was used up, not one socket's buffer
 */
export function socketBufferRemedies(node: string, port: number, shared: boolean): Remedy[] {
  if (shared)
    return [
      {
        what: 'give UDP more memory (pages; one limit for all network namespaces), or find the socket that holds it',
        command: 'sysctl net.ipv4.udp_mem; ss -uanm',
        source: 'ip-sysctl: udp_mem; __udp_enqueue_schedule_skb (net/ipv4/udp.c)',
      },
    ];
  return [
    {
      what: 'see the socket: Recv-Q is what waits for the process to read it, d… what its buffer had no room for, rb… the buffer',
      command: `ip netns exec ${node} ss -uanmp 'sport = :${port}'`,
      source: 'ss(8): skmem; sk_drops',
    },
    {
      what: 'see why the process behind it does not read: a CPU limit (nr_throttled), a stop, one thread for everything',
      command: 'cat /sys/fs/cgroup/…/cpu.stat; top -H',
      source: 'a buffer that is emptied in time is never full',
    },
    {
      what: 'let more processes or threads read: a socket each with SO_REUSEPORT (dnsmasq, unbound and CoreDNS have options), or more replicas',
      command: null,
      source: 'socket(7): SO_REUSEPORT',
    },
    {
      what: 'give it a larger buffer, so that a burst fits: SO_RCVBUF by the program (unbound so-rcvbuf, up to rmem_max), or for all new sockets. A small datagram takes some 800 bytes of it, not its own length',
      command: 'sysctl -w net.core.rmem_max=8388608 net.core.rmem_default=1048576',
      source:
        'socket(7): rmem_default, rmem_max; __sock_set_rcvbuf (net/core/sock.c) doubles SO_RCVBUF',
    },
  ];
}

/**
 * @param node namespace of the listening socket
 * @param queue which of its queues was full
 */
export function listenQueueRemedies(
  node: string,
  port: number,
  queue: 'accept-queue' | 'syn-queue',
): Remedy[] {
  const look: Remedy = {
    what: 'see the listening socket: Recv-Q is how many connections wait for accept(), Send-Q how many may',
    command: `ip netns exec ${node} ss -lntmp 'sport = :${port}'`,
    source: 'ss(8); sk_acceptq_is_full (include/net/sock.h): full when Recv-Q > Send-Q',
  };
  if (queue === 'accept-queue')
    return [
      look,
      {
        what: 'see why the process does not come to accept(): a CPU limit, a stop, a worker that is busy; then more workers, each with a listening socket of its own (SO_REUSEPORT), or more replicas',
        command: null,
        source: 'accept(2); socket(7): SO_REUSEPORT',
      },
      {
        what: 'give it a longer queue for bursts: the backlog that the program passes to listen(), which net.core.somaxconn bounds',
        command: `ip netns exec ${node} sysctl -w net.core.somaxconn=16384`,
        source: 'listen(2); __sys_listen (net/socket.c)',
      },
      {
        what: 'tcp_abort_on_overflow makes clients fail at once rather than wait, and only where the queue is found full at the end of a handshake: it is no cure',
        command: null,
        source: 'ip-sysctl: tcp_abort_on_overflow; tcp_check_req (net/ipv4/tcp_minisocks.c)',
      },
    ];
  return [
    {
      what: 'let SYN cookies answer when the SYN queue is full: then none is dropped',
      command: `ip netns exec ${node} sysctl -w net.ipv4.tcp_syncookies=1`,
      source: 'tcp(7): tcp_syncookies; tcp_conn_request (net/ipv4/tcp_input.c)',
    },
    {
      what: 'see who leaves connections half open: a flood, or clients to whom the SYN-ACK finds no way back',
      command: `ip netns exec ${node} ss -nt state syn-recv | awk '{ print $4 }' | sort | uniq -c | sort -rn | head`,
      source: 'ss(8): syn-recv',
    },
    {
      what: 'make the SYN queue longer: the backlog of listen() (and net.core.somaxconn) bounds it, and, without SYN cookies, three quarters of tcp_max_syn_backlog',
      command: `ip netns exec ${node} sysctl -w net.ipv4.tcp_max_syn_backlog=8192 net.core.somaxconn=8192`,
      source:
        'inet_csk_reqsk_queue_is_full (include/net/inet_connection_sock.h); tcp_conn_request; ip-sysctl: tcp_max_syn_backlog',
    },
    look,
  ];
}
