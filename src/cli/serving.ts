import { existsSync, readFileSync } from 'node:fs';
import { Option } from 'commander';
import {
  Access,
  checkListen,
  parseListen,
  readToken,
  type ListenAddress,
} from '../stream/access.js';
import { PageFiles } from '../stream/page-files.js';
import { DEFAULT_PORT } from '../stream/protocol.js';

/** What every command that serves is told. */
export interface ServingOptions {
  listen: string;
  tokenFile?: string;
  allowOrigin?: string[];
}

export const listenOption = (): Option =>
  new Option(
    '--listen <address>',
    'where to serve; beyond loopback only with a token (port 0: any free one)',
  ).default(`127.0.0.1:${DEFAULT_PORT}`);

export const tokenFileOption = (): Option =>
  new Option(
    '--token-file <file>',
    "the token is this file's first line; otherwise SKBWHY_TOKEN in the environment",
  );

export const allowOriginOption = (): Option =>
  new Option(
    '--allow-origin <origin...>',
    'pages of these origins may connect, besides our own (https://host)',
  );

/** @throws SkbwhyError 'bad-option', 'file-unreadable' */
export async function whoMayConnect(
  options: ServingOptions,
): Promise<{ listen: ListenAddress; access: Access }> {
  const listen = parseListen(options.listen);
  const token = await readToken(options.tokenFile);
  checkListen(listen, token);
  return { listen, access: new Access(token, options.allowOrigin) };
}

/** The page as it was built; none in a checkout where it was not. */
export function builtPage(): PageFiles {
  const folder = new URL('../web/page/', import.meta.url);
  return new PageFiles(existsSync(folder) ? folder : null);
}

export function version(): string {
  const file = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}
