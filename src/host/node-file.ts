import { existsSync } from 'node:fs';

/**
 * Where a file of the node is: in a container that sees the node's processes, below process 1's root
 * directory, elsewhere (and where that may not be looked into) at its own path.
 */
export function nodeFile(path: string): string {
  const there = `/proc/1/root${path}`;
  return existsSync(there) ? there : path;
}
