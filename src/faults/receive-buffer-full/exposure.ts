import type { Remedy } from '../../explain/finding.js';
import { counterMeaning } from '../../event/counters.js';
import { exposedTo, notExposedTo, onlyExposed } from '../exposures.js';
import type { ExposureReport, Place } from '../fault.js';

const VERDICT = 'receive-buffer-full';
/** Counters of sockets that had no room: it has happened. */
const OVERFLOWS = [
  'Udp.RcvbufErrors',
  'Udp6.RcvbufErrors',
  'Udp.MemErrors',
  'TcpExt.ListenOverflows',
  'TcpExt.TCPReqQFullDrop',
  'TcpExt.TCPBacklogDrop',
  'TcpExt.TCPRcvQDrop',
];
/** Settings below which ordinary bursts do not fit, and the kernel's own (5.4 and newer). */
const SMALL: readonly { name: string; below: number; usual: number; why: string }[] = [
  {
    name: 'net.core.somaxconn',
    below: 1024,
    usual: 4096,
    why: 'no accept queue is longer, whatever the program asks for',
  },
  {
    name: 'net.core.rmem_default',
    below: 212_992,
    usual: 212_992,
    why: 'a UDP socket has room for that many bytes, a small datagram taking some 800',
  },
];

/** A namespace is exposed where sockets have overflowed already, or where its settings leave them little room. */
export function exposure(place: Place): ExposureReport {
  const { counters, settings } = place;
  const overflowed = OVERFLOWS.filter((name) => (counters[name] ?? 0) > 0);
  const small = SMALL.filter(({ name, below }) => Number(settings[name] ?? Infinity) < below);
  const noCookies = settings['net.ipv4.tcp_syncookies'] === '0';
  if (overflowed.length === 0 && small.length === 0 && !noCookies)
    return notExposedTo(
      VERDICT,
      place,
      'no socket has overflowed since the namespace came to be, and queues and buffers are as large as the kernel makes them, or larger',
    );
  return onlyExposed(
    exposedTo(VERDICT, place, {
      confidence: overflowed.length > 0 ? 'likely' : 'possible',
      why: [
        ...overflowed.map(
          (name) =>
            `${name} is ${counters[name]} since the namespace came to be: ${counterMeaning(name)?.meaning ?? name}.`,
        ),
        ...small.map(({ name, why }) => `${name} is ${settings[name]}: ${why}.`),
        ...(noCookies
          ? [
              `net.ipv4.tcp_syncookies is 0: SYNs are dropped once the SYN queue (tcp_max_syn_backlog ${settings['net.ipv4.tcp_max_syn_backlog'] ?? 'not known'}) is full.`,
            ]
          : []),
      ],
      remedies: remediesFor(overflowed.length > 0, small, noCookies),
    }),
  );
}

function remediesFor(overflowed: boolean, small: typeof SMALL, noCookies: boolean): Remedy[] {
  const remedies: Remedy[] = [];
  if (overflowed)
    remedies.push({
      what: 'see which socket: Recv-Q is what waits, d… what found no room',
      command: 'ss -lntump',
      source: 'ss(8): skmem, sk_drops',
    });
  if (small.length > 0)
    remedies.push({
      what: 'as large as the kernel makes them, at least',
      command: `sysctl -w ${small.map(({ name, usual }) => `${name}=${usual}`).join(' ')}`,
      source: 'Documentation/admin-guide/sysctl/net.rst',
    });
  if (noCookies)
    remedies.push({
      what: 'answer with SYN cookies when the SYN queue is full',
      command: 'sysctl -w net.ipv4.tcp_syncookies=1',
      source: 'Documentation/networking/ip-sysctl.rst: tcp_syncookies',
    });
  return remedies;
}
