import { setTimeout as sleep } from 'node:timers/promises';
import type { LookupVolley } from '../../lab/dns-client.js';
import { TYPE_A } from '../../lab/dns-message.js';
import {
  BACKENDS,
  createDnsNode,
  dnsLab,
  REPEAT_AFTER,
  SERVICE,
  TIMEOUT,
} from '../../lab/dns-node.js';
import { hold, runClients, startServer } from '../../lab/endpoints.js';
import { defineLab, type ClientResult } from '../../lab/lab.js';
import type { Namespaces } from '../../lab/namespaces.js';
import {
  LATE_RULES,
  provoke,
  provokeConnectCollision,
  provokeLookupCollision,
  RANDOM_FULLY,
  TimedClient,
  TRIES,
} from '../../lab/race.js';
import type { SettingsOf } from '../../lab/settings.js';

const TCP_PORT = 8080;
const FIRST_PORT = 40000;
const SERVER = BACKENDS[0];

const SETTINGS = [
  {
    key: 'form',
    kind: 'text',
    default: 'no-free-port',
    values: ['no-free-port', 'port-race'],
    help: 'another pod holds the ports that the rule may choose, or two pods connect from one source port at the same moment',
  },
  {
    key: 'protocol',
    kind: 'text',
    default: 'tcp',
    values: ['tcp', 'udp'],
    help: 'connects, or lookups',
  },
  {
    key: 'service',
    kind: 'boolean',
    default: false,
    help: 'the clients call a Service, whose address is translated too. A race of lookups is conntrack-reply-collision then',
  },
  {
    key: 'rules',
    kind: 'text',
    default: 'iptables',
    values: ['iptables', 'nft'],
    help: 'what the masquerade rule is made with',
  },
  {
    key: 'ports',
    kind: 'number',
    default: 8,
    range: [1, 1000],
    help: 'no-free-port: source ports that the rule may choose',
  },
  {
    key: 'held',
    kind: 'number',
    default: null,
    range: [0, 1000],
    help: 'no-free-port: so many of them the other pod holds; default: all',
  },
  {
    key: 'release',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: null,
    range: [0.1, 600],
    help: 'no-free-port: so long after the client began they begin to be free again (tcp: their holder ends, and a second later its entries; udp: the entries do, in whole seconds); default: never',
  },
  { ...RANDOM_FULLY, help: 'port-race: the masquerade rule chooses random ports (--random-fully)' },
  { ...LATE_RULES, default: 1000 },
  REPEAT_AFTER,
  TRIES,
  { ...TIMEOUT, default: 5 },
] as const;

type Options = SettingsOf<typeof SETTINGS>;

/**
 * A node masquerades its pods towards a server. Either its rule has few ports, and one pod holds them
 * all; or it has all, but keeps the pods' own, and two of them have the same.
 */
export const lab = defineLab({
  name: 'snat-port-exhaustion',
  title: 'source NAT without a free port, or with the same one for two connects',
  settings: SETTINGS,
  async up(options, signal) {
    const udp = options.protocol === 'udp';
    const race = options.form === 'port-race';
    const namespaces = await createDnsNode(
      {
        ...{ pods: 2, backends: 1, delayMs: udp ? 0 : null },
        ...rulesOf(options),
        sysctls: releasing(options),
        lateRules: race ? options.lateRules : 0,
      },
      signal,
    );
    try {
      if (!udp) await startServer(namespaces, 'server', { answer: TCP_PORT });
    } catch (error) {
      await namespaces.remove();
      throw error;
    }
    const run = race ? collide : udp ? exhaustForLookups : exhaustForConnects;
    return dnsLab(namespaces, (runSignal) => run(namespaces, options, runSignal));
  },
});

function rulesOf({ form, protocol, rules, ports, randomFully }: Options) {
  const range = form === 'no-free-port' ? `${FIRST_PORT}-${FIRST_PORT + ports - 1}` : null;
  const random = randomFully && range === null;
  const dnat = `-A PREROUTING -d ${SERVICE.address} -p tcp -m tcp --dport ${TCP_PORT} -j DNAT --to-destination ${SERVER}:${TCP_PORT}`;
  if (rules === 'nft')
    return {
      rules: [dnat],
      nft: `table ip masquerading {
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ip daddr ${SERVER} ip protocol ${protocol} masquerade${range === null ? '' : ` to :${range}`}${random ? ' fully-random' : ''}
  }
}`,
    };
  const masquerade = `MASQUERADE${range === null ? '' : ` --to-ports ${range}`}${random ? ' --random-fully' : ''}`;
  return { rules: [dnat, `-A POSTROUTING -d ${SERVER}/32 -p ${protocol} -j ${masquerade}`] };
}

/**
 * Entries that are to end do so soon: a port of a connection that has ended is free at once only for a
 * SYN whose sequence number is ahead of the old one's (nf_nat_may_kill and nf_seq_has_advanced,
 * net/netfilter/nf_nat_core.c; measured on 6.18: one port in two).
 */
function releasing({ protocol, release }: Options): Record<string, number> {
  if (release === null) return {};
  return protocol === 'udp'
    ? { 'net.netfilter.nf_conntrack_udp_timeout': Math.max(Math.ceil(release), 1) }
    : { 'net.netfilter.nf_conntrack_tcp_timeout_time_wait': 1 };
}

function target({ protocol, service }: Options): { address: string; port: number } {
  return {
    address: service ? SERVICE.address : SERVER,
    port: protocol === 'udp' ? SERVICE.port : TCP_PORT,
  };
}

/** Pod 2 holds connections, and pod 1 connects. */
async function exhaustForConnects(
  namespaces: Namespaces,
  options: Options,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const { held, ports, release, timeout } = options;
  const { address, port } = target(options);
  const holder = await hold(namespaces, 'client2', address, port, held ?? ports);
  const done = new AbortController();
  try {
    if (release !== null)
      void sleep(release * 1000, undefined, { signal: done.signal }).then(
        () => holder.stdin?.end(),
        () => undefined,
      );
    const connect = { address, port, purpose: 'faulty', timeoutMs: timeout * 1000 };
    return await runClients(namespaces, 'client', [connect], signal);
  } finally {
    done.abort();
    holder.stdin?.end();
  }
}

/** Pod 2 has asked from as many ports, and pod 1 asks. */
async function exhaustForLookups(
  namespaces: Namespaces,
  options: Options,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const { held, ports, repeatAfter, timeout } = options;
  const volley = {
    server: target(options),
    repeatMs: repeatAfter * 1000,
    timeoutMs: timeout * 1000,
  };
  const ask = (client: TimedClient<LookupVolley>, tries: number) =>
    provoke(
      namespaces,
      [client],
      {
        ...{ volley, tries, counters: ['drop'] },
        plan: (_, n) => ({
          name: `try-${n}.pod-${client.pod}.example.com`,
          ...{ types: [TYPE_A], sourcePort: 0, skewUs: 0 },
        }),
      },
      signal,
    );
  // it stands ready when the ports begin to be taken: they may be free again soon
  const client = TimedClient.ofLookups(namespaces, 1);
  const holder = TimedClient.ofLookups(namespaces, 2);
  return [...(await ask(holder, held ?? ports)), ...(await ask(client, 1))];
}

/** Both pods begin from one source port at the same moment. */
function collide(
  namespaces: Namespaces,
  options: Options,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const race = { ...options, server: target(options) };
  return options.protocol === 'udp'
    ? provokeLookupCollision(namespaces, race, signal)
    : provokeConnectCollision(namespaces, race, signal);
}
