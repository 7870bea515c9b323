import { readdirSync } from 'node:fs';
import type { Fault } from './fault.js';

/**
 * Every fault there is: each folder beside this file. Whoever adds a fault adds a folder and
 * touches nothing else.
 */
export async function loadFaults(): Promise<Fault[]> {
  const folders = readdirSync(new URL('.', import.meta.url), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
  return Promise.all(
    folders.map(async (name) => {
      const module = (await import(new URL(`${name}/index.js`, import.meta.url).href)) as {
        fault: Fault;
      };
      return module.fault;
    }),
  );
}
