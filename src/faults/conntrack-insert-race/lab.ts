import { TYPE_A, TYPE_AAAA } from '../../lab/dns-message.js';
import {
  BACKENDS,
  createDnsNode,
  DnsClient,
  provoke,
  SERVICE,
  twoCpus,
} from '../../lab/dns-node.js';
import { defineLab, type RunningLab } from '../../lab/lab.js';
import type { SettingsOf } from '../../lab/settings.js';

const SETTINGS = [
  {
    key: 'backends',
    kind: 'number',
    default: 1,
    range: [1, 2],
    help: 'pods behind the DNS Service; with 2, the two queries are translated differently',
  },
  {
    key: 'masquerade',
    kind: 'boolean',
    default: true,
    help: 'the queries are masqueraded',
  },
  {
    key: 'repeatAfter',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 2.5,
    range: [0.1, 30],
    help: 'when the client repeats a query without an answer; musl: 2.5, glibc: 5',
  },
  {
    key: 'tries',
    kind: 'number',
    default: 2000,
    range: [1, 20000],
    help: 'how often A and AAAA are asked at the same moment until their entries clash',
  },
  {
    key: 'clashes',
    kind: 'number',
    default: 1,
    range: [1, 10000],
    help: 'how many clashes conntrack must have counted until the lab is over',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 15,
    range: [0.1, 600],
    help: 'how long the client waits for its answers',
  },
] as const;

/** The second query leaves earlier or later than the first by up to so much, µs. */
const SKEW_US = 20;

/**
 * A pod sends A and AAAA from one socket on two CPUs: two packets of one flow, neither of which finds an
 * entry, make one each. What becomes of the second one is the kernel's: from 5.7 on the two are merged
 * or both kept, and nothing is lost; before, the packet is dropped.
 */
export const lab = defineLab({
  name: 'conntrack-insert-race',
  title:
    'A and AAAA clash in conntrack, and the answer to one comes after the second its entry lives',
  settings: SETTINGS,
  up,
});

async function up(
  settings: SettingsOf<typeof SETTINGS>,
  signal?: AbortSignal,
): Promise<RunningLab> {
  const [cpu, other] = twoCpus();
  const namespaces = await createDnsNode(
    {
      pods: 1,
      backends: settings.backends === 2 ? 2 : 1,
      delayMs: 0,
      rules: settings.masquerade
        ? BACKENDS.map((address) => `-A POSTROUTING -d ${address}/32 -p udp -m udp -j MASQUERADE`)
        : [],
    },
    signal,
  );
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['node'] ?? '',
    traced: ['node', 'client'].map((role) => names[role] ?? ''),
    run: (runSignal) =>
      provoke(
        namespaces,
        [DnsClient.start(namespaces, 'client', cpu, other)],
        {
          tries: settings.tries,
          repeatMs: settings.repeatAfter * 1000,
          timeoutMs: settings.timeout * 1000,
          counters: ['clash_resolve', 'drop'],
          times: settings.clashes,
          plan: (_, n) => ({
            name: `try-${n}.example.com`,
            types: [TYPE_A, TYPE_AAAA],
            sourcePort: 0,
            skewUs: SKEW_US,
            otherSkewUs: (n * 7) % (2 * SKEW_US + 1),
          }),
        },
        runSignal,
      ),
    exec: (command, options) =>
      namespaces.exec(
        'client',
        command,
        { SKBWHY_SERVICE: `${SERVICE.address}:${SERVICE.port}` },
        options,
      ),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}
