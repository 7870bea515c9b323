import { SkbwhyError } from '../../event/errors.js';
import { defineLab } from '../../lab/lab.js';
import { ROUTED_CABLES, routedAddress, routedScripts } from '../../lab/routed.js';
import { build } from '../../lab/topology.js';

const PORT = 8080;
/** Nobody listens here. */
const CLOSED_PORT = 8081;

const SETTINGS = [
  {
    key: 'family',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of client and server',
  },
  {
    key: 'translated',
    kind: 'boolean',
    default: false,
    help: 'clients know the server by an address that the node translates (DNAT)',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections to a port that nobody listens on, all at once',
  },
  {
    key: 'lookups',
    kind: 'number',
    default: 0,
    range: [0, 100],
    help: 'DNS lookups beside them at the same address, all at once, where no name server runs; with family=ipv4',
  },
  {
    key: 'healthy',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections beside them, to a port that answers',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 2.5,
    range: [0.1, 3600],
    help: 'how long a client waits for its answer',
  },
] as const;

/** What a Service’s address is to a server without a listener. */
const SERVICE = { ipv4: '10.96.0.30', ipv6: 'fd00:10:96::30' } as const;

/** A client, a node that routes, a server with one open port. */
export const lab = defineLab({
  name: 'no-listener',
  title: 'a port that nobody listens on',
  settings: SETTINGS,
  up: ({ family, translated, clients, healthy, lookups, timeout }, signal) => {
    const scripts = routedScripts(family);
    const server = routedAddress('server', family);
    const address = translated ? SERVICE[family] : server;
    if (lookups > 0 && family === 'ipv6')
      throw new SkbwhyError('bad-option', '--set lookups: the lab’s resolver speaks IPv4');
    const ip = family === 'ipv6' ? 'ip6' : 'ip';
    const many = (count: number, port: number, purpose: string) =>
      Array.from({ length: count }, () => ({ address, port, purpose, timeoutMs: timeout * 1000 }));
    const dnat = `
nft -f - <<'RULES'
table ${ip} lab {
  chain prerouting {
    type nat hook prerouting priority dstnat;
    ${ip} daddr ${address} dnat to ${server}
  }
}
RULES
`;
    return build(
      {
        cables: ROUTED_CABLES,
        scripts: { ...scripts, node: scripts.node + (translated ? dnat : '') },
        servers: { server: { answer: PORT } },
        clients: {
          client: [...many(clients, CLOSED_PORT, 'faulty'), ...many(healthy, PORT, 'healthy')],
        },
        lookups: {
          client: Array.from({ length: lookups }, (_, i) => ({
            purpose: 'faulty',
            name: `lab${i}.test`,
            servers: [address],
            resolver: 'once' as const,
            timeoutMs: timeout * 1000,
          })),
        },
        node: 'client',
        environment: { SKBWHY_SERVER: address },
      },
      signal,
    );
  },
});
