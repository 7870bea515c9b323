/**
 * Script for readSections. Never /proc/net/nf_conntrack: reading that can itself reap an expired
 * entry. /proc/net/stat/nf_conntrack is there only where conntrack is loaded, and loads nothing.
 */
export const COUNTERS_SCRIPT = `
section conntrack; cat /proc/net/stat/nf_conntrack 2>/dev/null
section snmp; cat /proc/net/snmp /proc/net/netstat 2>/dev/null
section snmp6; cat /proc/net/snmp6 2>/dev/null
section devices; cat /proc/net/dev 2>/dev/null
section softnet; cat /proc/net/softnet_stat 2>/dev/null
`;

/** Counters of traffic as such: they tell nothing of a fault and change all the time. */
const TRAFFIC =
  /Octets|^Ip(Ext|6)?\.(In|Out)\w*Pkts$|^TcpExt\.TCP(HPHits|HPAcks|PureAcks|OrigDataSent|DelayedACKs|AutoCorking)$/;

/**
 * The counters that are not zero: `Udp.InCsumErrors`, `TcpExt.TCPSynRetrans`,
 * `conntrack.insert_failed` (all CPUs together; `conntrack.entries` is how many there are now),
 * `softnet.dropped`, `device.eth0.rx_drop`.
 */
export function parseCounters(sections: ReadonlyMap<string, string>): Record<string, number> {
  const values: Record<string, number> = {};
  const add = (name: string, value: number): void => {
    if (value && !TRAFFIC.test(name)) values[name] = value;
  };

  const [names = '', ...cpus] = lines(sections.get('conntrack'));
  for (const [at, name] of words(names).entries()) {
    const perCpu = cpus.map((line) => parseInt(words(line)[at] ?? '0', 16));
    // entries is one number, repeated on every CPU's line
    add(`conntrack.${name}`, name === 'entries' ? (perCpu[0] ?? 0) : sum(perCpu));
  }

  const snmp = lines(sections.get('snmp'));
  for (let at = 0; at + 1 < snmp.length; at += 2) {
    const [group = '', ...keys] = words(snmp[at] ?? '');
    const [, ...numbers] = words(snmp[at + 1] ?? '');
    for (const [index, key] of keys.entries())
      add(`${group.replace(':', '')}.${key}`, counter(Number(numbers[index]), key));
  }
  for (const line of lines(sections.get('snmp6'))) {
    const [, group, key, value] = /^(Ip6|Icmp6|Udp6)(\w+)\s+(\d+)/.exec(line) ?? [];
    if (group && key) add(`${group}.${key}`, Number(value));
  }

  // receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets errs drop …
  for (const line of lines(sections.get('devices')).slice(2)) {
    const colon = line.indexOf(':');
    const device = line.slice(0, colon).trim();
    const numbers = words(line.slice(colon + 1)).map(Number);
    for (const [at, name] of [
      [2, 'rx_errors'],
      [3, 'rx_drop'],
      [10, 'tx_errors'],
      [11, 'tx_drop'],
    ] as const)
      add(`device.${device}.${name}`, numbers[at] ?? 0);
  }

  // softnet_seq_show, net/core/net-procfs.c: processed, dropped, time_squeeze
  const softnet = lines(sections.get('softnet')).map((line) =>
    words(line).map((word) => parseInt(word, 16)),
  );
  add('softnet.dropped', sum(softnet.map((cpu) => cpu[1] ?? 0)));
  add('softnet.time_squeeze', sum(softnet.map((cpu) => cpu[2] ?? 0)));
  return values;
}

/** Constants and states that /proc/net/snmp prints among its counters. */
const counter = (value: number, key: string): number =>
  ['Forwarding', 'DefaultTTL', 'RtoAlgorithm', 'RtoMin', 'RtoMax', 'MaxConn'].includes(key)
    ? 0
    : value;

const lines = (text: string | undefined): string[] =>
  (text ?? '').split('\n').filter((line) => line.trim());
const words = (line: string): string[] => line.trim().split(/\s+/);
const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0);
