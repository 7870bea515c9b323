import { setTimeout as sleep } from 'node:timers/promises';
import { SkbwhyError } from '../../event/errors.js';
import { runLookups, startNameServer, type PurposefulLookup } from '../../lab/dns.js';
import { hold, runClients, startServer, type Purpose } from '../../lab/endpoints.js';
import { untilThereAre } from '../../lab/connection-states.js';
import { forgetRouter } from '../../lab/late-neighbour.js';
import { defineLab, type ClientResult, type RunningLab } from '../../lab/lab.js';
import { Namespaces, type Cable } from '../../lab/namespaces.js';
import type { Program } from '../../lab/programs.js';
import { ROUTED_CABLES, routedAddress, routedScripts } from '../../lab/routed.js';
import type { SettingsOf } from '../../lab/settings.js';
import { neighbourAddress, neighbourScript, sysctls } from '../../lab/nodes.js';

const PORT = 8080;
/** Nobody listens here. */
const CLOSED_PORT = 8081;
/** SO_RCVBUF of a server that takes some twenty small datagrams, bytes; queries that fill it, and more. */
const SERVER_BUFFER = 8192;
const QUERIES = 64;
/** The smallest buffer there is: it takes two small datagrams. */
const RESOLVER_BUFFER = 1;
/** From one lookup to the next, ms: what answers their repeats is not to meet in the small buffer. */
const APART_MS = 4;
/** The server's answers come while the resolver reads nothing, ms. */
const ANSWER_MS = 300;
const DEAF_MS = 1200;
/**
 * Few enough that half-open connections are not given up early (reqsk_timer_handler,
 * net/ipv4/inet_connection_sock.c: from the fifth on).
 */
const HALF_OPEN = 4;

/** All SYNs have come by then, ms. */
const SETTLE_MS = 50;
/** As long as a user's command may take, s. */
const LONG = 86_400;

const SETTINGS = [
  {
    key: 'full',
    kind: 'text',
    default: 'server-buffer',
    values: [
      'server-buffer',
      'resolver-buffer',
      'accept-queue',
      'handshake',
      'syn-queue',
      'syn-backlog',
    ],
    help: 'what is full: the receive buffer of a DNS server that does not read; that of a resolver which asks many things at once and does not read for a while; the accept queue of a server that does not come to accept(); the same, found full at the end of a handshake only (family=ipv4); its SYN queue, by its own backlog, or by net.ipv4.tcp_max_syn_backlog',
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
    range: [1, 20],
    help: 'lookups, or connects, that find it full',
  },
  {
    key: 'seconds',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 1.5,
    range: [0.1, 600],
    help: 'how long it is full; a resolver’s is so for a moment',
  },
  {
    key: 'resolver',
    kind: 'text',
    default: 'musl',
    values: ['musl', 'glibc'],
    help: 'whose schedule lookups have: again after 2.5 s, or after 5 s',
  },
  {
    key: 'syncookies',
    kind: 'boolean',
    default: false,
    help: 'the server has SYN cookies, and a full SYN queue does no harm',
  },
  {
    key: 'timeout',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 30,
    range: [0.1, 3600],
    help: 'how long a connect is waited for',
  },
] as const;

type BufferSettings = SettingsOf<typeof SETTINGS>;

/**
 * Third parties who leave connections half open: nobody traces them, they drop the server's SYN-ACKs,
 * and send each SYN once.
 */
const MUTE_NETWORK = { ipv4: '10.81.3.0/24', ipv6: 'fd00:10:81:3::/64' } as const;
const MUTE_CABLE: Cable = [
  ['mute', 'eth0'],
  ['server', 'mute'],
];
const MUTE_RULES = `
nft -f - <<'RULES'
table inet mute {
  chain input {
    type filter hook input priority 0;
    tcp flags & (syn | ack) == syn | ack drop
  }
  chain output {
    type filter hook output priority 0;
    tcp flags & (syn | ack) == syn limit rate 1/day burst ${HALF_OPEN} packets accept
    tcp flags & (syn | ack) == syn drop
  }
}
RULES
`;

/** A client, a node that routes, and a server whose socket has no room for what comes. */
export const lab = defineLab({
  name: 'receive-buffer-full',
  title: 'a socket without room: receive buffer, accept queue or SYN queue',
  settings: SETTINGS,
  up,
});

async function up(settings: BufferSettings, signal?: AbortSignal): Promise<RunningLab> {
  const { full, family } = settings;
  if (full === 'handshake' && family === 'ipv6')
    throw new SkbwhyError('bad-option', '--set full=handshake: only with family=ipv4');
  const scripts = scriptsOf(settings);
  const cables = scripts['mute'] ? [...ROUTED_CABLES, MUTE_CABLE] : ROUTED_CABLES;
  const namespaces = await Namespaces.create(Object.keys(scripts), cables, signal);
  const dns = full === 'server-buffer' || full === 'resolver-buffer';
  const address = routedAddress('server', family);
  let server: Program;
  try {
    await Promise.all(
      Object.entries(scripts).map(([role, script]) => namespaces.script(role, script, signal)),
    );
    server = dns
      ? await startNameServer(namespaces, 'server', {
          ...(full === 'server-buffer' ? { receiveBuffer: SERVER_BUFFER } : { delayMs: ANSWER_MS }),
        })
      : await startServer(namespaces, 'server', {
          answer: PORT,
          ...(full === 'syn-backlog' ? {} : { backlog: HALF_OPEN - 1 }),
        });
    await fill(namespaces, settings, server);
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  return {
    namespaces: names,
    node: names['client']!,
    traced: [names['client']!, names['node']!, names['server']!],
    async run(runSignal) {
      const release = await holdOpen(namespaces, settings, settings.seconds, server, runSignal);
      const asking = (dns ? lookUp : connect)(namespaces, settings, runSignal);
      asking.catch(() => undefined); // awaited below
      // a client's process takes its time to begin
      if (full === 'accept-queue')
        await untilThereAre(settings.clients, 'syn-sent', namespaces, 'client', runSignal);
      const timer = setTimeout(release, settings.seconds * 1000);
      try {
        return await asking;
      } finally {
        clearTimeout(timer);
        release();
      }
    },
    async exec(command, options) {
      await holdOpen(namespaces, settings, LONG, server, options?.signal);
      return namespaces.exec(
        'client',
        command,
        { SKBWHY_SERVER: dns ? address : `${address}:${PORT}` },
        options,
      );
    },
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

function scriptsOf({ full, family, syncookies }: BufferSettings): Record<string, string> {
  const scripts = routedScripts(family);
  if (full !== 'syn-queue' && full !== 'syn-backlog') return scripts;
  const network = MUTE_NETWORK[family];
  return {
    ...scripts,
    server: `${scripts.server}
${neighbourScript('mute', network, 1)}
${sysctls({
  'net.ipv4.tcp_syncookies': syncookies ? 1 : 0,
  ...(full === 'syn-backlog' ? { 'net.ipv4.tcp_max_syn_backlog': HALF_OPEN } : {}),
})}
`,
    mute: neighbourScript('eth0', network, 2) + MUTE_RULES,
  };
}

/** Stops the server, where it is to be stopped, and fills its buffer or queue, before anybody looks. */
async function fill(
  namespaces: Namespaces,
  { full, family }: BufferSettings,
  server: Program,
): Promise<void> {
  const address = routedAddress('server', family);
  // so that nothing has to wait for a neighbour later; and the server does not know the client yet
  await runClients(namespaces, 'client', [
    { address, port: CLOSED_PORT, timeoutMs: 5000, purpose: 'fill' },
  ]);
  if (full === 'server-buffer') {
    server.kill('SIGSTOP');
    const queries = Array.from({ length: QUERIES }, (_, i): PurposefulLookup => ({
      name: `fill${i}.example`,
      servers: [address],
      resolver: 'once',
      types: [1],
      timeoutMs: 50,
      purpose: 'fill',
    }));
    await runLookups(namespaces, 'client', queries);
  } else if (full === 'accept-queue' || full === 'handshake') {
    server.kill('SIGSTOP');
    const held = full === 'handshake' ? HALF_OPEN - 1 : HALF_OPEN;
    await hold(namespaces, 'client', address, PORT, held);
  }
}

/**
 * Keeps it full for so many seconds, until the function that it resolves with is called. A half-open
 * connection is over when a repeat of its SYN-ACK gets through and is answered with a RST.
 */
async function holdOpen(
  namespaces: Namespaces,
  { full, family }: BufferSettings,
  seconds: number,
  server: Program,
  signal?: AbortSignal,
): Promise<() => void> {
  if (full !== 'syn-queue' && full !== 'syn-backlog') return () => void server.kill('SIGCONT');
  const connection: Purpose = {
    address: neighbourAddress(MUTE_NETWORK[family], 1),
    port: PORT,
    timeoutMs: seconds * 1000,
    purpose: 'fill',
  };
  const halfOpen = runClients(namespaces, 'mute', Array(HALF_OPEN).fill(connection), signal);
  halfOpen.catch(() => undefined);
  await untilThereAre(HALF_OPEN, 'syn-received', namespaces, 'server', signal);
  return () =>
    void namespaces.script('mute', 'nft delete table inet mute || true').catch(() => undefined);
}

function lookUp(
  namespaces: Namespaces,
  { full, family, clients, resolver }: BufferSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const ofResolver = full === 'resolver-buffer';
  // two answers find room
  const asked = clients + (ofResolver ? 2 : 0);
  const lookups = Array.from({ length: asked }, (_, i): PurposefulLookup => ({
    name: `host${i + 1}.example`,
    servers: [routedAddress('server', family)],
    resolver,
    purpose: ofResolver && i < 2 ? 'healthy' : 'faulty',
    startMs: i * APART_MS,
    ...(ofResolver
      ? {
          types: [1],
          localPort: 5353,
          receiveBuffer: RESOLVER_BUFFER,
          ...(i === 0 ? { deafMs: DEAF_MS } : {}),
        }
      : {}),
  }));
  return runLookups(namespaces, 'client', lookups, { signal });
}

/**
 * `handshake`: all SYNs are there before the first ACK is, since the SYN-ACKs wait for a neighbour; the
 * first connection gets the last place in the queue.
 */
async function connect(
  namespaces: Namespaces,
  { full, family, clients, timeout }: BufferSettings,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const address = routedAddress('server', family);
  const purposes = Array.from({ length: clients }, () => 'faulty');
  if (full !== 'handshake')
    return runClients(namespaces, 'client', purposes.map(connection), signal);
  const uplink = { role: 'server', address, router: 'node', device: 'server' };
  const release = await forgetRouter(namespaces, uplink, signal);
  const results = runClients(namespaces, 'client', ['first', ...purposes].map(connection), signal);
  results.catch(() => undefined);
  // those beyond the SYN queue have SYN cookies
  await untilThereAre(
    Math.min(clients + 1, HALF_OPEN),
    'syn-received',
    namespaces,
    'server',
    signal,
  );
  await sleep(SETTLE_MS);
  await release();
  return results;

  function connection(purpose: string): Purpose {
    return { address, port: PORT, timeoutMs: timeout * 1000, purpose };
  }
}
