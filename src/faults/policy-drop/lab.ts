import { SkbwhyError } from '../../event/errors.js';
import { defineLab } from '../../lab/lab.js';
import { ROUTED_CABLES, routedAddress, routedScripts } from '../../lab/routed.js';
import type { SettingsOf } from '../../lab/settings.js';
import { build } from '../../lab/topology.js';

const PORT = 8080;
const HEALTHY_PORT = 8081;
/** Longer than what opens a connection, shorter than a request with a body of as much, bytes. */
const SHORT = 300;

const SETTINGS = [
  {
    key: 'rules',
    kind: 'text',
    default: 'iptables',
    values: ['iptables', 'iptables-legacy', 'iptables-nft', 'nft'],
    help: "what holds the rule; iptables: the system's own choice of the two",
  },
  {
    key: 'chain',
    kind: 'text',
    default: 'FORWARD',
    values: ['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING'],
    help: 'where the rule stands: PREROUTING in raw, POSTROUTING in mangle, else in filter; with INPUT the server is on the node, with OUTPUT the client',
  },
  {
    key: 'action',
    kind: 'text',
    default: 'drop',
    values: ['drop', 'reject', 'reset', 'policy'],
    help: 'drop, reject with an ICMP message, reject with a TCP reset, or drop by the policy of the chain',
  },
  {
    key: 'direction',
    kind: 'text',
    default: 'request',
    values: ['request', 'answer'],
    help: 'whether the rule meets the SYN or what answers it',
  },
  {
    key: 'data',
    kind: 'boolean',
    default: false,
    help: `with rules=nft: the rule meets only what is longer than ${SHORT} bytes; the connection stands, and its data is lost`,
  },
  {
    key: 'family',
    kind: 'text',
    default: 'ipv4',
    values: ['ipv4', 'ipv6'],
    help: 'family of client and server',
  },
  {
    key: 'clients',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections that the rule meets, all at once',
  },
  {
    key: 'lookups',
    kind: 'number',
    default: 0,
    range: [0, 100],
    help: 'DNS lookups beside them that it meets too, all at once; with direction=request, family=ipv4',
  },
  {
    key: 'healthy',
    kind: 'number',
    default: 1,
    range: [0, 1000],
    help: 'connections beside them, to a port that it does not meet',
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

type PolicySettings = SettingsOf<typeof SETTINGS>;

/** A client, a node that routes and filters, a server. */
export const lab = defineLab({
  name: 'policy-drop',
  title: 'a server whose packets a rule drops or rejects',
  settings: SETTINGS,
  up: (settings, signal) => {
    const { family, chain, clients, healthy, lookups, timeout } = settings;
    if (lookups > 0 && (family === 'ipv6' || settings.direction === 'answer'))
      throw new SkbwhyError('bad-option', '--set lookups: not with family=ipv6, direction=answer');
    if (settings.data && (settings.rules !== 'nft' || settings.action === 'policy'))
      throw new SkbwhyError('bad-option', '--set data: with rules=nft, not with action=policy');
    const scripts = routedScripts(family);
    const server = chain === 'INPUT' ? 'node' : 'server';
    const client = chain === 'OUTPUT' ? 'node' : 'client';
    const address = routedAddress(server, family);
    const many = (count: number, port: number, purpose: string) =>
      Array.from({ length: count }, () => ({
        ...{ address, port, purpose, timeoutMs: timeout * 1000 },
        ...(settings.data ? { bytes: SHORT } : {}),
      }));
    return build(
      {
        cables: ROUTED_CABLES,
        scripts: { ...scripts, node: scripts.node + ruleScript(settings) },
        servers: { [server]: { answer: [PORT, HEALTHY_PORT] } },
        clients: {
          [client]: [...many(clients, PORT, 'faulty'), ...many(healthy, HEALTHY_PORT, 'healthy')],
        },
        lookups: {
          [client]: Array.from({ length: lookups }, (_, i) => ({
            ...{ purpose: 'faulty', name: `lab${i}.test`, servers: [address] },
            ...{ resolver: 'once' as const, timeoutMs: timeout * 1000 },
          })),
        },
        node: 'node',
        environment: { SKBWHY_SERVER: address },
      },
      signal,
    );
  },
});

function ruleScript({ rules, chain, action, direction, data, family }: PolicySettings): string {
  const port = `${direction === 'request' ? 'dport' : 'sport'} ${PORT}${data ? ` meta length > ${SHORT}` : ''}`;
  if (action !== 'drop' && !['INPUT', 'FORWARD', 'OUTPUT'].includes(chain))
    throw new SkbwhyError(
      'bad-option',
      `--set action=${action}: it goes with INPUT, FORWARD or OUTPUT`,
    );
  return rules === 'nft'
    ? nftRule(chain, action, port, family)
    : iptablesRule(rules, chain, action, port, family);
}

function iptablesRule(
  rules: PolicySettings['rules'],
  chain: string,
  action: PolicySettings['action'],
  port: string,
  family: string,
): string {
  const command = rules.replace('iptables', family === 'ipv6' ? 'ip6tables' : 'iptables');
  const table = chain === 'PREROUTING' ? 'raw' : chain === 'POSTROUTING' ? 'mangle' : 'filter';
  const target = {
    drop: 'DROP',
    reject: 'REJECT',
    reset: 'REJECT --reject-with tcp-reset',
    policy: '',
  }[action];
  const conntrack =
    table === 'raw'
      ? ''
      : `${command} -w 5 -t ${table} -A ${chain} -m conntrack --ctstate INVALID -j DROP\n`;
  return action === 'policy'
    ? `${conntrack}${command} -w 5 -t ${table} -A ${chain} -p tcp -m tcp --${port.replace(String(PORT), String(HEALTHY_PORT))} -j ACCEPT
${command} -w 5 -t ${table} -A ${chain} -p ${family === 'ipv6' ? 'ipv6-icmp' : 'icmp'} -j ACCEPT
${command} -w 5 -t ${table} -A ${chain} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
${command} -w 5 -t ${table} -P ${chain} DROP
`
    : `${conntrack}${command} -w 5 -t ${table} -N LAB
${command} -w 5 -t ${table} -A ${chain} -p tcp -j LAB
${command} -w 5 -t ${table} -A LAB -p tcp -m tcp --${port} -j ${target}
${command} -w 5 -t ${table} -A ${chain} -p udp -m udp --dport 53 -j ${action === 'reset' ? 'REJECT' : target}
`;
}

/** Priorities as `nft` names them: raw -300, mangle -150, filter 0. */
function nftRule(
  chain: string,
  action: PolicySettings['action'],
  port: string,
  family: string,
): string {
  const verdict = { drop: 'drop', reject: 'reject', reset: 'reject with tcp reset', policy: '' };
  const priority = chain === 'PREROUTING' ? 'raw' : chain === 'POSTROUTING' ? 'mangle' : 'filter';
  const icmp = family === 'ipv6' ? 'icmpv6' : 'icmp';
  return `nft -f - <<'RULES'
table inet lab {
  chain ${chain.toLowerCase()} {
    type filter hook ${chain.toLowerCase()} priority ${priority}; policy ${action === 'policy' ? 'drop' : 'accept'};
${
  action === 'policy'
    ? `    meta l4proto ${icmp} accept
    ct state established,related accept
    tcp ${port.replace(String(PORT), String(HEALTHY_PORT))} accept`
    : `    tcp ${port} ${verdict[action]}
    udp dport 53 ${action === 'reset' ? 'reject' : verdict[action]}`
}
  }
}
RULES
`;
}
