import { SkbwhyError } from '../event/errors.js';

/** pcap-filter expression -> eBPF code for the object's slot. */
export function compileFilter(expression: string): Buffer {
  throw new SkbwhyError('bad-filter', `not yet: ${expression}`);
}
