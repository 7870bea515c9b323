import { readFileSync } from 'node:fs';

/** Bits of include/uapi/linux/capability.h. */
const BITS = { CAP_NET_ADMIN: 12, CAP_SYS_ADMIN: 21 } as const;

export type Capability = keyof typeof BITS;

/** Whether this process may do all of that: root in a container often may not. */
export function hasCapabilities(...wanted: readonly Capability[]): boolean {
  const status = readFileSync('/proc/self/status', 'latin1');
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  return wanted.every((name) => ((effective >> BigInt(BITS[name])) & 1n) === 1n);
}
