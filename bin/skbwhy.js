#!/usr/bin/env node
// The command line itself is src/cli/main.ts; in a fresh checkout it has to be built first.
import { existsSync } from 'node:fs';

const main = new URL('../dist/src/cli/main.js', import.meta.url);
if (!existsSync(main)) {
  console.error('skbwhy: not built yet: run `npm start` in the checkout once');
  process.exit(1);
}
// picocolors takes a build server (CI in the environment) for a terminal
if (!process.stdout.isTTY && !process.env.FORCE_COLOR) process.env.NO_COLOR = '1';
const { main: run } = await import(main.href);
await run(process.argv);
