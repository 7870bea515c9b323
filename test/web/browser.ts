import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium, type Browser, type Page } from 'playwright-core';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

/** Debian's Chromium, which asks nobody outside for anything. */
export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

/** What went wrong on a page that should go without a word. */
export interface Complaints {
  readonly list: string[];
  /** the browser says so itself when a connection breaks, which some tests want */
  allow: RegExp | null;
}

export interface View {
  width?: number;
  height?: number;
  colorScheme?: 'light' | 'dark';
}

/** Opens the page at `url`; errors, forbidden sources and requests elsewhere are collected. */
export async function open(
  browser: Browser,
  url: string,
  { width = 1280, height = 900, colorScheme = 'light' }: View = {},
): Promise<{ page: Page; complaints: Complaints }> {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme,
    reducedMotion: 'reduce',
    permissions: ['clipboard-read', 'clipboard-write'],
  });
  const page = await context.newPage();
  const complaints: Complaints = { list: [], allow: null };
  const complain = (what: string): void => {
    if (!complaints.allow?.test(what)) complaints.list.push(what);
  };
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complain(message.text());
  });
  page.on('pageerror', (error) => complain(String(error)));
  page.on('dialog', (dialog) => {
    complain(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  const { host } = new URL(url);
  page.on('request', (request) => {
    if (new URL(request.url()).host !== host) complain(`asks ${request.url()}`);
  });
  await page.goto(url);
  return { page, complaints };
}

/** The page as it stands is accessible, as far as axe can tell. */
export async function assertAccessible(page: Page): Promise<void> {
  // by the debugger: the page's own policy forbids foreign scripts
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const violations = await page.evaluate<string[]>(`axe.run().then(({ violations }) =>
    violations.map(({ id, help, nodes }) => [id, help,
      ...nodes.map(({ html, failureSummary }) => html.slice(0, 200) + ' ' + failureSummary)].join(' ')))`);
  assert.deepEqual(violations, []);
}

/** Nothing stands out of the window to the right. */
export async function assertFits(page: Page): Promise<void> {
  const [wanted, there] = await page.evaluate<[number, number]>(
    '[document.documentElement.scrollWidth, document.documentElement.clientWidth]',
  );
  assert.ok(wanted <= there, `${wanted} px in a window of ${there}`);
}
