import { TYPE_A } from '../../lab/dns-message.js';
import {
  BACKENDS,
  createDnsNode,
  DnsClient,
  provoke,
  roleOf,
  SERVICE,
  twoCpus,
} from '../../lab/dns-node.js';
import { defineLab, type RunningLab } from '../../lab/lab.js';
import type { SettingsOf } from '../../lab/settings.js';

const SETTINGS = [
  {
    key: 'randomFully',
    kind: 'boolean',
    default: false,
    help: 'the masquerade rule chooses random ports (--random-fully)',
  },
  {
    key: 'lateRules',
    kind: 'number',
    default: 400,
    range: [0, 5000],
    help: 'nft rules that a packet passes between source NAT and the insertion of its entry: the more, the likelier the race',
  },
  {
    key: 'repeatAfter',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 2.5,
    range: [0.1, 30],
    help: 'when the clients repeat a query without an answer; musl: 2.5, glibc: 5',
  },
  {
    key: 'tries',
    kind: 'number',
    default: 2000,
    range: [1, 20000],
    help: 'how often both clients ask at the same moment until an insertion fails',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 15,
    range: [0.1, 600],
    help: 'how long a client waits for its answer',
  },
] as const;

/** Source port of the first try; each try has the next. */
const FIRST_PORT = 20000;
const PORTS = 20000;
/** The second client's queries leave earlier or later than the first's by up to so much, µs. */
const SKEW_US = 20;

/**
 * Two pods ask the cluster's DNS Service from the same source port at the same moment; the node
 * translates both to one backend and masquerades them.
 */
export const lab = defineLab({
  name: 'conntrack-reply-collision',
  title: 'two clients with one source port, masqueraded to the same tuple: one query is dropped',
  settings: SETTINGS,
  up,
});

async function up(
  settings: SettingsOf<typeof SETTINGS>,
  signal?: AbortSignal,
): Promise<RunningLab> {
  const cpus = twoCpus();
  const masquerade = settings.randomFully ? 'MASQUERADE --random-fully' : 'MASQUERADE';
  const namespaces = await createDnsNode(
    {
      pods: 2,
      backends: 1,
      delayMs: 0,
      lateRules: settings.lateRules,
      rules: [`-A POSTROUTING -d ${BACKENDS[0]}/32 -p udp -m udp -j ${masquerade}`],
    },
    signal,
  );
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['node'] ?? '',
    traced: ['node', 'client', 'client2'].map((role) => names[role] ?? ''),
    run: (runSignal) =>
      provoke(
        namespaces,
        cpus.map((cpu, i) => DnsClient.start(namespaces, roleOf(i + 1), cpu)),
        {
          tries: settings.tries,
          repeatMs: settings.repeatAfter * 1000,
          timeoutMs: settings.timeout * 1000,
          counters: ['drop'],
          plan: (client, n) => ({
            name: `try-${n}.client-${client + 1}.example.com`,
            types: [TYPE_A],
            sourcePort: FIRST_PORT + (n % PORTS),
            skewUs: client === 0 ? SKEW_US : (n * 7) % (2 * SKEW_US + 1),
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
