#!/usr/bin/env node
/** Builds the browser's page: src/web into dist/src/web/page, from where it is served. */
import { build } from 'esbuild';
import * as fs from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const FROM = 'src/web';
const TO = 'dist/src/web/page';

fs.rmSync(TO, { recursive: true, force: true });
await build({
  entryPoints: { page: `${FROM}/main.ts`, style: `${FROM}/page.css` },
  outdir: TO,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  // the decoders are those of the command line, which use Node's Buffer
  inject: [`${FROM}/buffer.ts`],
  external: ['/icon.svg'],
  legalComments: 'eof',
  logLevel: 'warning',
});
for (const file of ['index.html', 'icon.svg'])
  fs.copyFileSync(path.join(FROM, file), path.join(TO, file));
