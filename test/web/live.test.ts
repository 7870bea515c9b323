import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Browser } from 'playwright-core';
import { Running, startDaemon } from '../live/daemon.js';
import { runLabOnce } from '../live/skbwhy.js';
import { assertAccessible, launch, open } from './browser.js';

/** Services of a network that no other lab has, so that a daemon can tell its own. */
const SERVICES = `10.${150 + (process.pid % 50)}.0.0/16`;
const LONGEST_AFTER_MS = 1000;

describe('the page of a daemon', { skip: process.getuid!() !== 0 && 'needs root' }, () => {
  let browser: Browser;
  let daemon: Awaited<ReturnType<typeof startDaemon>>;
  before(async () => {
    browser = await launch();
    daemon = await startDaemon('--filter', `net ${SERVICES}`);
  });
  after(async () => {
    await browser.close();
    await daemon.stop();
  });

  test('shows a finding by itself within a second of the command line, the drop one click away', async () => {
    const { page, complaints } = await open(browser, daemon.url);
    await page.getByRole('heading', { name: 'Nothing is wrong so far' }).waitFor();
    const watch = Running.start('watch', daemon.url, '--json');
    // `watch` says nothing before there is a finding: give it time to connect
    await sleep(1000);
    const told = watch
      .until('finding', ({ findings }) => findings.length > 0)
      .then(() => Date.now());
    const shown = page.evaluate<number>(`new Promise((resolve) => {
      const look = () => {
        if (!document.querySelector('main .attempts > li.dropped')) return;
        observer.disconnect();
        resolve(Date.now());
      };
      const observer = new MutationObserver(look);
      observer.observe(document, { childList: true, subtree: true });
    })`);
    const lab = runLabOnce('double-snat', { services: SERVICES });
    const [onLine, onPage] = await Promise.all([told, shown]);
    assert.ok(onPage - onLine < LONGEST_AFTER_MS, `${onPage - onLine} ms later`);
    await lab;
    await page.locator('.attempts > li.delivered').waitFor();
    assert.equal(await page.locator('.attempts > li').count(), 2);
    await page.getByRole('button', { name: /^dropped UDP_CSUM/ }).click();
    const event = page.getByRole('complementary', { name: 'Event' });
    assert.match(await event.innerText(), /packet\.drop[\s\S]*UDP_CSUM[\s\S]*__udp4_lib_rcv/);
    await assertAccessible(page);
    assert.deepEqual(complaints.list, []);
    await watch.stop();
  });

  test('one cause is one entry with a count; names made of HTML stay text', async () => {
    const { page, complaints } = await open(browser, daemon.url, { width: 400, height: 800 });
    const script = [
      'ip link set flannel.1 name "<b>x<b>"',
      // devices are read again every few seconds
      'sleep 8',
      'for i in 1 2 3; do (exec -a "<img src=x onerror=alert(1)>" curl -s -m 20 -o /dev/null http://$SKBWHY_SERVICE/) & done',
      'wait',
    ].join('; ');
    await runLabOnce('double-snat', { services: SERVICES }, '--', 'bash', '-c', script);
    const card = page.locator('nav button', { hasText: '3×' });
    await card.click();
    const main = page.locator('main');
    await main.getByRole('heading', { name: 'The same cause, 3 times' }).waitFor();
    const text = await main.innerText();
    assert.ok(text.includes('<b>x<b>'), text);
    assert.ok(text.includes('<img src=x onerror=alert(1)>'), text);
    assert.equal(await page.locator('img, body script').count(), 0);
    assert.deepEqual(complaints.list, []);
  });

  test('keeps what was found when the daemon is started anew, and goes on', async () => {
    const { page, complaints } = await open(browser, daemon.url);
    complaints.allow = /WebSocket|Failed to load resource|ERR_CONNECTION/;
    await page.locator('nav li').first().waitFor();
    const known = await page.locator('nav li').count();
    await daemon.stop();
    daemon = await startDaemon('--filter', `net ${SERVICES}`, '--listen', new URL(daemon.url).host);
    await page.locator('#connection', { hasText: 'live' }).waitFor();
    await page.getByText('from an earlier session').first().waitFor();
    assert.equal(await page.locator('nav li').count(), known);
    await runLabOnce('double-snat', { services: SERVICES });
    await page.locator('nav li').nth(known).waitFor();
    assert.deepEqual(complaints.list, []);
  });
});
