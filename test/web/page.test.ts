import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Browser, Page } from 'playwright-core';
import type { Fact } from '../../src/event/fact.js';
import { loadFaults } from '../../src/faults/registry.js';
import { Running } from '../live/daemon.js';
import {
  assertAccessible,
  assertFits,
  launch,
  open,
  type Complaints,
  type View,
} from './browser.js';
import { fileOf, insist, RECORDED, rewrite } from './recorded.js';

const faults = await loadFaults();

let browser: Browser;
const folder = mkdtempSync(join(tmpdir(), 'skbwhy-page-'));
before(async () => {
  browser = await launch();
});
after(async () => {
  await browser.close();
  rmSync(folder, { recursive: true });
});

/** A replay of a session, on a port of its own. */
async function replay(file: string, ...args: string[]): Promise<Running & { url: string }> {
  const running = Running.start('replay', file, '--listen', '127.0.0.1:0', ...args);
  const url = await running.until('address', ({ errors }) =>
    errors.map((line) => / at (http:\S+);/.exec(line)?.[1]).find((found) => found !== undefined),
  );
  return Object.assign(running, { url });
}

/** Opens the page of a replay, and looks that it went without a complaint. */
async function withPage(
  file: string,
  view: View,
  look: (page: Page, complaints: Complaints) => Promise<void>,
  ...args: string[]
): Promise<void> {
  const running = await replay(file, ...(args.length > 0 ? args : ['--speed', 'max']));
  try {
    const { page, complaints } = await open(browser, running.url, view);
    await look(page, complaints);
    assert.deepEqual(complaints.list, []);
    await page.context().close();
  } finally {
    await running.stop();
  }
}

const heading = (page: Page) => page.locator('main h2');
const event = (page: Page) => page.getByRole('complementary', { name: 'Event' });

describe('the page of a replay', () => {
  test('shows the finding by itself: verdict, ladder, prediction, proof, remedies', () =>
    withPage(RECORDED, {}, async (page) => {
      await heading(page).getByText('1 SYN spoiled by a second SNAT').waitFor();
      // as it stands in the end: it is told when it is proved, and again when it is over
      await page.locator('main .badge', { hasText: 'recovered' }).waitFor();
      const main = page.locator('main');
      const text = (await main.innerText()).replaceAll('\u00a0', ' ');
      for (const words of [
        'double-snat',
        'udpcsum-not-updated',
        'proved',
        'recovered',
        '60449 → 50536',
        '0xa8c8, should be 0xcf81',
        'predicted\n1 s',
        'observed\n1.01 s',
        'checksum-offload',
        'ethtool -K flannel.1 tx-checksum-ip-generic off',
      ])
        assert.ok(text.includes(words), `${words}\n${text}`);
      const attempts = page.locator('.attempts > li');
      assert.equal(await attempts.count(), 2);
      assert.match(await attempts.nth(0).innerText(), /SYN 1\s+at once\s+dropped UDP_CSUM/);
      assert.match(await attempts.nth(1).innerText(), /SYN 2\s+\+1\.01\sdelivered|delivered/);
      assert.equal(await page.locator('.chain > li').count(), 9);
      assert.match(await page.title(), /^\(1\) skbwhy · vm$/);
    }));

  test('opens the event of the dropped packet on one click, whole', () =>
    withPage(RECORDED, {}, async (page) => {
      await page.getByRole('button', { name: /^dropped UDP_CSUM/ }).click();
      const text = (await event(page).innerText()).replaceAll('\n', ' ');
      for (const words of [
        'packet.drop #34',
        'UDP_CSUM',
        '__udp4_lib_rcv+0x1eb',
        'skbwhy-10690-receiver',
        'eth0',
        '192.168.100.1:50536',
        '192.168.100.2:8472',
        '10.244.2.10:8080',
        'wrong: 0xa8c8 is carried',
      ])
        assert.ok(text.includes(words), `${words}\n${text}`);
    }));

  test('opens the records behind each claim on one click', () =>
    withPage(RECORDED, {}, async (page) => {
      const chips = page.locator('.chain .event-chip');
      await chips.first().waitFor();
      for (const chip of await chips.all()) {
        const name = (await chip.innerText()).trim();
        await chip.click();
        assert.equal((await event(page).locator('h2').innerText()).trim(), name);
        assert.equal(await chip.getAttribute('aria-current'), 'true');
        assert.doesNotMatch(await event(page).innerText(), /no longer kept/);
      }
      await page.locator('.chain .event-chip', { hasText: 'rules' }).first().click();
      assert.match(await event(page).innerText(), /KUBE-MARK-MASQ/);
      const conntrack = page.locator('.chain .event-chip', { hasText: 'nat.setup' }).first();
      await conntrack.click();
      assert.match(await event(page).innerText(), /Connection tracking[\s\S]*original[\s\S]*reply/);
    }));

  test('asks the server for records that came before it was opened', async () => {
    const running = await replay(RECORDED, '--speed', 'max');
    try {
      const first = await open(browser, running.url);
      await heading(first.page).waitFor();
      const { page } = await open(browser, running.url);
      await page.locator('.chain .event-chip', { hasText: 'packet.drop' }).first().click();
      await event(page).getByText('UDP_CSUM').waitFor();
    } finally {
      await running.stop();
    }
  });

  test('is worked by the keyboard alone', () =>
    withPage(RECORDED, {}, async (page) => {
      await heading(page).waitFor();
      const chip = page.locator('.chain .event-chip').nth(2);
      await chip.focus();
      await page.keyboard.press('Enter');
      await event(page).waitFor();
      await page.keyboard.press('Escape');
      await event(page).waitFor({ state: 'hidden' });
      assert.equal(
        await page.evaluate('document.activeElement.textContent'),
        (await chip.innerText()).trim(),
      );
    }));

  test('copies a command', () =>
    withPage(RECORDED, {}, async (page) => {
      // what changes under the mouse gets no click
      await page.locator('main .badge', { hasText: 'recovered' }).waitFor();
      await page.getByRole('button', { name: /^copy: ethtool/ }).click();
      await page
        .getByRole('button', { name: /^copy: ethtool/ })
        .getByText('copied')
        .waitFor();
      assert.equal(
        await page.evaluate('navigator.clipboard.readText()'),
        'ethtool -K flannel.1 tx-checksum-ip-generic off',
      );
    }));

  test('plays, pauses, seeks and plays again; the finding comes when it did', () =>
    withPage(
      RECORDED,
      {},
      async (page) => {
        await page.getByRole('heading', { name: 'Nothing is wrong so far' }).waitFor();
        await page.getByRole('button', { name: 'pause' }).click();
        await page.getByRole('button', { name: 'play', exact: true }).click();
        await heading(page).getByText('spoiled by a second SNAT').waitFor();
        await page.getByRole('button', { name: 'play again' }).waitFor();
        // the finding comes a tenth of a second later: at this speed it takes half a second
        await page.getByRole('combobox').selectOption('0.25');
        await page.getByRole('slider').fill('300');
        await page.getByRole('heading', { name: 'Nothing is wrong so far' }).waitFor();
        await page.getByRole('combobox').selectOption('max');
        await heading(page).getByText('spoiled by a second SNAT').waitFor();
      },
      '--speed',
      '1',
    ));

  test('shows what is watched, and what is not', () =>
    withPage(RECORDED, {}, async (page) => {
      await page.locator('footer summary').click();
      const text = await page.locator('footer').innerText();
      assert.match(text, /6\.18/);
      assert.match(text, /packet\.drop tracepoint/);
      assert.match(text, /not attached/);
    }));

  for (const colorScheme of ['light', 'dark'] as const)
    for (const width of [1280, 400])
      test(`is accessible and fits, ${colorScheme}, ${width} px wide`, async () => {
        await withPage(
          RECORDED,
          { width, colorScheme },
          async (page) => {
            await page.getByRole('heading', { name: 'Nothing is wrong so far' }).waitFor();
            await assertAccessible(page);
            await assertFits(page);
          },
          '--speed',
          '0.1',
        );
        await withPage(RECORDED, { width, colorScheme }, async (page) => {
          await page.getByRole('button', { name: /^dropped UDP_CSUM/ }).click();
          await event(page).locator('summary').click();
          await page.evaluate("document.querySelector('footer details').open = true");
          await assertAccessible(page);
          await assertFits(page);
        });
      });

  for (const { verdict } of faults)
    test(`shows the recorded session of ${verdict}, with every event behind it`, () =>
      withPage(fileOf(verdict), { width: 1000 }, async (page) => {
        const code = page.locator('main .verdict code.code', { hasText: verdict });
        if ((await page.locator('nav li').first().waitFor(), await code.count()) === 0)
          await page.locator('nav button', { hasText: verdict }).first().click();
        await code.waitFor();
        for (const chip of await page.locator('.chain .event-chip').all()) {
          await chip.click();
          assert.doesNotMatch(await event(page).innerText(), /no longer kept/);
        }
        await assertAccessible(page);
        await assertFits(page);
      }));

  test('names made of HTML stay text', async () => {
    const file = join(folder, 'html.skbw');
    const image = '<img src=x onerror=alert(1)>';
    await rewrite(file, {
      fact: (fact): Fact => {
        switch (fact.fact) {
          case 'netns':
            return { ...fact, name: `${image}${fact.netns}` };
          case 'device':
            return { ...fact, name: '<b>x</b>' };
          case 'process':
            return { ...fact, command: '<script>alert(2)</script>' };
          case 'symbol':
            return { ...fact, name: '<u>symbol</u>' };
          default:
            return fact;
        }
      },
    });
    await withPage(file, {}, async (page) => {
      await page.getByRole('button', { name: /^dropped UDP_CSUM/ }).click();
      const text = await page.locator('body').innerText();
      for (const name of [image, '<b>x</b>', '<script>alert(2)</script>', '<u>symbol</u>'])
        assert.ok(text.includes(name), `${name}\n${text}`);
      assert.equal(await page.locator('img, u, body script, .event b').count(), 0);
    });
  });

  test('shows an exchange without a verdict, where it was last seen and what to do next', async () => {
    const file = join(folder, 'unexplained.skbw');
    await rewrite(file, { points: ['socket.state', 'tcp.retransmit', 'mark.set', 'nat.setup'] });
    await withPage(file, {}, async (page) => {
      await heading(page).getByText('10.96.0.10:80').waitFor();
      const text = await page.locator('main').innerText();
      assert.match(text, /no verdict/);
      assert.match(text, /last seen at nat\.setup/);
      assert.match(text, /Where to look next/);
      await page.locator('.chain .event-chip').first().click();
      assert.match(await event(page).innerText(), /nat\.setup/);
      await assertAccessible(page);
    });
  });

  test('of many attempts those in the middle are one click away, and stay so', async () => {
    const file = join(folder, 'many.skbw');
    await insist(file, 27);
    await withPage(file, { width: 400 }, async (page) => {
      await page.locator('main .badge', { hasText: 'failed' }).waitFor();
      const drops = page.getByRole('button', { name: /^dropped / });
      const shown = (): Promise<string[]> =>
        page.locator('.attempts .who b').filter({ visible: true }).allInnerTexts();
      const numbers = [1, 2, 3, 4, 5, 6, 7, 8, 29, 30].map((n) => `SYN ${n}`);
      assert.deepEqual(await shown(), numbers);
      await assertAccessible(page);

      await page.getByText('20 more', { exact: true }).click();
      assert.deepEqual(
        await shown(),
        Array.from({ length: 30 }, (_, i) => `SYN ${i + 1}`),
      );
      // its event, not another one's; the finding is drawn anew then
      await drops.nth(16).click();
      const at = await event(page).innerText();
      await drops.nth(17).click();
      await event(page).getByText('packet.drop').first().waitFor();
      assert.notEqual(await event(page).innerText(), at);
      assert.equal((await shown()).length, 30);
      await assertAccessible(page);
      await assertFits(page);
    });
  });

  test('of many attempts without a verdict, too', async () => {
    const file = join(folder, 'many-unexplained.skbw');
    await insist(file, 27, ['packet.drop']);
    await withPage(file, { width: 400 }, async (page) => {
      const shown = page.locator('.chain p:has(b)').filter({ visible: true });
      await page.locator('main .badge', { hasText: 'failed' }).waitFor();
      assert.equal(await shown.count(), 10);
      assert.match(await shown.nth(8).innerText(), /^SYN 29, after 28/);
      await page.getByText('20 more', { exact: true }).click();
      assert.equal(await shown.count(), 30);
      assert.match(await shown.nth(8).innerText(), /^SYN 9, after 8/);
      await assertAccessible(page);
      await assertFits(page);
    });
  });

  test('comes back by itself when the server does, and asks for a token that is wanted', async () => {
    const token = join(folder, 'token');
    writeFileSync(token, 'sesame\n');
    const running = await replay(RECORDED, '--speed', 'max', '--token-file', token);
    const { page, complaints } = await open(browser, running.url);
    complaints.allow = /WebSocket|Failed to load resource|ERR_CONNECTION/;
    await page.getByLabel(/token/).fill('sesame');
    await page.getByRole('button', { name: 'connect' }).click();
    await heading(page).getByText('spoiled by a second SNAT').waitFor();

    const { host } = new URL(running.url);
    await running.stop();
    await page.getByText('not connected').waitFor();
    assert.equal(await page.locator('nav li').count(), 1);
    const again = Running.start(
      'replay',
      RECORDED,
      '--speed',
      'max',
      '--listen',
      host,
      '--token-file',
      token,
    );
    try {
      await page.locator('#connection', { hasText: 'ended' }).waitFor();
      assert.equal(await page.locator('nav li').count(), 1);

      const other = await open(browser, `${running.url}/?token=sesame`);
      await heading(other.page).getByText('spoiled by a second SNAT').waitFor();
      assert.equal(new URL(other.page.url()).search, '');
    } finally {
      await again.stop();
    }
    assert.deepEqual(complaints.list, []);
  });
});
