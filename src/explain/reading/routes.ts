import type { DeviceFact } from '../../event/fact.js';
import type { Evidence } from '../finding.js';
import { numberOf } from './rule-match.js';
import type { World } from '../world.js';

/** A route of the main table that leads to an address. */
export interface Route {
  device: DeviceFact;
  /** as recorded: `10.0.0.0/8`, `default via 10.0.0.1` */
  text: string;
  evidence: Evidence;
}

/**
 * The most specific routes of a namespace’s main table to an address, one for each next hop; none:
 * there is none. null: its routes are not known. Rules (`ip rule`) and metrics are not looked at.
 */
export function routesTo(
  world: World,
  netns: number,
  address: string,
  time = Infinity,
): Route[] | null {
  const devices = world.devicesOf(netns, time);
  if (!devices.some(({ fact }) => fact.routes)) return null;
  let best = -1;
  let found: Route[] = [];
  for (const { fact, evidence } of devices)
    for (const text of fact.routes ?? []) {
      const length = matches(text.split(' ')[0] ?? '', address);
      if (length < best || length < 0) continue;
      if (length > best) found = [];
      best = length;
      found.push({ device: fact, text, evidence });
    }
  return found;
}

/** The prefix length when the address lies in it, else −1. */
function matches(destination: string, address: string): number {
  const v6 = address.includes(':');
  if (destination === 'default') return 0;
  const [host = '', bits] = destination.split('/');
  if (host.includes(':') !== v6) return -1;
  const width = v6 ? 128 : 32;
  const length = bits === undefined ? width : Number(bits);
  const shift = BigInt(width - length);
  return numberOf(host) >> shift === numberOf(address) >> shift ? length : -1;
}
