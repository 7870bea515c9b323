import { setTimeout as sleep } from 'node:timers/promises';
import { lowerConntrackLimit } from '../../lab/conntrack-limit.js';
import { TYPE_A } from '../../lab/dns-message.js';
import {
  BACKENDS,
  createDnsNode,
  dnsLab,
  REPEAT_AFTER,
  SERVICE,
  TIMEOUT,
} from '../../lab/dns-node.js';
import { hold, startServer } from '../../lab/endpoints.js';
import { defineLab, type RunningLab } from '../../lab/lab.js';
import { provoke, TimedClient } from '../../lab/race.js';
import type { SettingsOf } from '../../lab/settings.js';

const SERVER_PORT = 8080;
/** Connections held above the limit. */
const MORE = 20;
/** The lookup comes when the limit has been low for so long that it was sampled: for so many times `low`. */
const SETTLE = 2;

const SETTINGS = [
  {
    key: 'limit',
    kind: 'number',
    default: 400,
    range: [100, 100000],
    help: 'net.netfilter.nf_conntrack_max while the lookup is made. It is one for all network namespaces: the lab refuses where another one has half as many entries',
  },
  {
    key: 'held',
    kind: 'number',
    default: null,
    range: [0, 200000],
    help: 'connections that another pod holds meanwhile; default: a few more than the limit',
  },
  {
    key: 'low',
    kind: 'number',
    unit: 's',
    fraction: true,
    default: 1,
    range: [0.1, 30],
    help: 'how long the limit is low from when the lookup is begun; twice as long it is low before. A slow machine needs more, and a repeat that comes later',
  },
  { ...REPEAT_AFTER, range: [1, 30] },
  TIMEOUT,
] as const;

/**
 * A pod holds more connections than conntrack has room for, and another one asks the DNS Service. The
 * limit is lowered for a moment, rather than the table filled: a quarter of a million entries would
 * not harm less.
 */
export const lab = defineLab({
  name: 'conntrack-table-full',
  title: 'conntrack has no room for the entry of a DNS query',
  settings: SETTINGS,
  up,
});

async function up(
  settings: SettingsOf<typeof SETTINGS>,
  signal?: AbortSignal,
): Promise<RunningLab> {
  const namespaces = await createDnsNode(
    {
      pods: 2,
      backends: 1,
      delayMs: 0,
      rules: [`-A POSTROUTING -d ${BACKENDS[0]}/32 -j MASQUERADE`],
    },
    signal,
  );
  const node = namespaces.names['node'] ?? '';
  try {
    await startServer(namespaces, 'server', { sink: SERVER_PORT });
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  return dnsLab(namespaces, async (runSignal) => {
    const held = settings.held ?? settings.limit + MORE;
    const client = TimedClient.ofLookups(namespaces, 1);
    const holder = await hold(namespaces, 'client2', BACKENDS[0], SERVER_PORT, held);
    const { restored } = await lowerConntrackLimit(
      settings.limit,
      (SETTLE + 1) * settings.low,
      node,
    );
    try {
      // an interruption is for provoke() to tell
      await sleep(
        SETTLE * settings.low * 1000,
        undefined,
        runSignal ? { signal: runSignal } : {},
      ).catch(() => undefined);
      return await provoke(
        namespaces,
        [client],
        {
          volley: {
            server: SERVICE,
            repeatMs: settings.repeatAfter * 1000,
            timeoutMs: settings.timeout * 1000,
          },
          tries: 1,
          counters: ['drop'],
          plan: () => ({ name: 'www.example.com', types: [TYPE_A], sourcePort: 0, skewUs: 0 }),
        },
        runSignal,
      );
    } finally {
      holder.stdin?.end();
      await restored;
    }
  });
}
