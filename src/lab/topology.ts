import { fileURLToPath } from 'node:url';
import { runLookups, startNameServer, type PurposefulLookup } from './dns.js';
import { startServer, runClients, type Purpose } from './endpoints.js';
import type { ClientResult, RunningLab } from './lab.js';
import { Namespaces, type Cable } from './namespaces.js';
import type { NameServer } from './name-server.js';
import type { Card } from './network-card.js';
import { startProgram } from './programs.js';
import type { Ports } from './server.js';

const CARD = fileURLToPath(new URL('./network-card.js', import.meta.url));

const commandOf = (card: Card): string[] => [process.execPath, CARD, JSON.stringify(card)];

/** A small lab: namespaces joined by cables, what makes each what it is, who listens and who connects. */
export interface Topology {
  cables: readonly Cable[];
  /** role → shell script that makes its namespace what it is; every role has one */
  scripts: Readonly<Record<string, string>>;
  /** role → ports to listen on */
  servers?: Readonly<Record<string, Ports>>;
  /** role → a DNS server there */
  nameServers?: Readonly<Record<string, NameServer>>;
  /** role → connections that it makes, all at once */
  clients?: Readonly<Record<string, readonly Purpose[]>>;
  /** role → DNS lookups that it makes beside them */
  lookups?: Readonly<Record<string, readonly PurposefulLookup[]>>;
  /** what they do instead, where more has to happen than that they begin all at once */
  run?: (namespaces: Namespaces, signal?: AbortSignal) => Promise<ClientResult[]>;
  /** what their resolver reads as /etc/resolv.conf; the machine's own if not told */
  resolvConf?: string;
  /** role → the network card between two of its devices */
  cards?: Readonly<Record<string, Card>>;
  /** role in which a user's command runs */
  node: string;
  /** roles that a tracer on real nodes would not see */
  untraced?: readonly string[];
  /** what a user's command is told, besides the namespaces' names */
  environment?: Readonly<Record<string, string>>;
}

/**
 * Builds a lab. On failure or abort nothing is left of it.
 * Throws `no-privilege`, `lab-failed`.
 */
export async function build(topology: Topology, signal?: AbortSignal): Promise<RunningLab> {
  const { cables, scripts, servers = {}, nameServers = {}, cards = {}, node } = topology;
  const { untraced = [], environment = {} } = topology;
  const roles = Object.keys(scripts);
  const namespaces = await Namespaces.create(roles, cables, signal);
  try {
    await Promise.all([
      ...Object.entries(servers).map(([role, ports]) => startServer(namespaces, role, ports)),
      ...Object.entries(nameServers).map(([role, server]) =>
        startNameServer(namespaces, role, server),
      ),
      ...Object.entries(scripts).map(([role, text]) => namespaces.script(role, text, signal)),
    ]);
    await Promise.all(
      Object.entries(cards).map(([role, card]) =>
        startProgram(namespaces, role, 'network card', commandOf(card)),
      ),
    );
  } catch (error) {
    await namespaces.remove();
    throw error;
  }
  const { names } = namespaces;
  const told = {
    ...environment,
    ...Object.fromEntries(
      Object.entries(names).map(([role, name]) => [`SKBWHY_NETNS_${role.toUpperCase()}`, name]),
    ),
  };
  return {
    namespaces: names,
    node: names[node] ?? '',
    traced: roles.flatMap((role) => (untraced.includes(role) ? [] : (names[role] ?? []))),
    run: (runSignal) =>
      topology.run ? topology.run(namespaces, runSignal) : begin(topology, namespaces, runSignal),
    exec: (command, options) => namespaces.exec(node, command, told, options),
    keep: () => namespaces.keep(),
    down: () => namespaces.remove(),
  };
}

/** All connections and lookups at once. */
async function begin(
  { clients = {}, lookups = {}, resolvConf }: Topology,
  namespaces: Namespaces,
  signal?: AbortSignal,
): Promise<ClientResult[]> {
  const results = await Promise.all([
    ...Object.entries(clients).map(([role, list]) => runClients(namespaces, role, list, signal)),
    ...Object.entries(lookups).map(([role, list]) =>
      runLookups(namespaces, role, list, {
        signal,
        ...(resolvConf === undefined ? {} : { resolvConf }),
      }),
    ),
  ]);
  return results.flat();
}
