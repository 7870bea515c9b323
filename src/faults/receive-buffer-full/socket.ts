import type { OverflowedSocket } from '../../event/fact.js';
import { formatEndpoint, type Endpoint } from '../../event/headers.js';
import type { Claim, Evidence } from '../../explain/finding.js';
import type { World } from '../../explain/world.js';
import { count } from '../../explain/wording.js';

/** A socket that dropped packets, as it was looked at after its namespace's counters rose. */
export interface SeenSocket {
  socket: OverflowedSocket;
  /** CLOCK_MONOTONIC ns */
  time: number;
  evidence: Evidence;
}

/**
 * The socket that takes what comes for an address and port, where it was seen to have dropped packets.
 * null: sockets were not looked at; 'another': they were, from `time` on, and only others had.
 */
export function socketOf(
  world: World,
  netns: number,
  protocol: OverflowedSocket['protocol'],
  { address, port }: Endpoint,
  time: number,
): SeenSocket | 'another' | null {
  const known = world.overflowedSockets(netns, time);
  if (!known) return null;
  // ss: a socket of IPv6 that takes IPv4 too is bound to `*`
  const bound = [
    formatEndpoint({ address, port }),
    `[::ffff:${address}]:${port}`,
    `0.0.0.0:${port}`,
    `[::]:${port}`,
    `*:${port}`,
  ];
  const socket = known.fact.sockets.find(
    (s) => s.protocol === protocol && bound.includes(s.local.replace(/%[^:\]]+/, '')),
  );
  if (socket) return { socket, time: known.time, evidence: known.evidence };
  return known.time >= time ? 'another' : null;
}

/** `/usr/bin/node server.js (pid 12)`, or in short `node (pid 12)`; '' where it is not known */
export function processOf(world: World, { socket }: SeenSocket, short = false): string {
  const [pid] = socket.pids;
  if (pid === undefined) return '';
  const command = world.process(pid)?.command;
  if (!command) return `pid ${pid}`;
  return `${short ? command.split(' ')[0]!.replace(/.*\//, '') : command} (pid ${pid})`;
}

/** What was seen of the socket itself, as a link of the chain. */
export function socketClaim(world: World, seen: SeenSocket): Claim {
  const { protocol, waiting, room, dropped, local } = seen.socket;
  const process = processOf(world, seen);
  const fill =
    protocol === 'tcp'
      ? `${count(waiting, 'connection')} waited for accept() where ${room} may`
      : `${waiting} bytes of its buffer were used, of ${room}`;
  return {
    claim: 'socket',
    text: `The socket ${protocol === 'tcp' ? 'that listens ' : ''}on ${local}${process ? ` is that of ${process}` : ''}: when it was looked at, ${fill}, and it had dropped ${count(dropped, 'packet')} in its life.`,
    evidence: [seen.evidence],
  };
}
