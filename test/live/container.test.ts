import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { Report } from '../../src/explain/finding.js';
import { Image, ON_NODE } from './image.js';
import { addNetns, inside, netnsName, removeNetns, sleep, until } from './probe-lab.js';
import { isLoaded, programsOf } from './programs.js';
import { skbwhy } from './skbwhy.js';

const NAMES = '--volume=/run/netns:/run/netns:ro,rslave';
/** Starting a container is part of it. */
const START_MS = 30_000;

describe('the container image', () => {
  const folder = mkdtempSync(join(tmpdir(), 'skbwhy-data-'));
  let image: Image;
  before(async () => (image = await Image.build()), { timeout: 600_000 });
  after(() => {
    image?.remove();
    rmSync(folder, { recursive: true });
  });

  test('is small: Node and what is needed to trace', () => {
    const megabytes = image.size() / 1e6;
    assert.ok(megabytes < 180, `${megabytes.toFixed(0)} MB beside its base`);
  });

  test('brings nothing to build or install with', async () => {
    const tools = 'npm npx g++ make python3 git';
    const { status, stdout } = await image.run(
      ['--entrypoint=/bin/sh'],
      '-c',
      `for tool in ${tools}; do command -v $tool; done; ls /opt/skbwhy/test /opt/skbwhy/dist/test 2>/dev/null`,
    );
    assert.equal(stdout, '');
    assert.notEqual(status, 0);
  });

  test('says what the node allows', async () => {
    const { status, stdout, stderr } = await image.run(ON_NODE, 'doctor', '--json');
    assert.equal(status, 0, stderr);
    const said = JSON.parse(stdout) as {
      kernel: { release: string };
      points: { point: string; mechanism: string | null; reason?: string }[];
    };
    assert.equal(said.kernel.release, release());
    for (const point of ['socket.state', 'packet.drop', 'device.transmit']) {
      const { mechanism, reason } = said.points.find((each) => each.point === point)!;
      assert.equal(mechanism, 'tracepoint', reason);
    }
  });

  test('records what happens in namespaces of the node', async () => {
    const name = netnsName('image');
    addNetns(name);
    try {
      const options = [...ON_NODE, NAMES, `--volume=${folder}:/data`];
      const container = image.start(options, 'record', 'seen.skbw', '--netns', name);
      await until('it records', START_MS, () => /^Recording/m.test(container.stderr()));
      // nobody listens there
      inside(name, 'bash -c ": < /dev/tcp/127.0.0.1/9" 2>/dev/null || true');
      await sleep(500);
      container.process.kill('SIGTERM');
      const { status, stdout, stderr } = await container.ended;
      assert.equal(status, 0, stderr);
      assert.match(stdout, /nobody listens on TCP 127\.0\.0\.1:9/);

      const explained = await skbwhy(['explain', '--json', join(folder, 'seen.skbw')]);
      assert.equal(explained.status, 0, explained.stderr);
      const { unexplained, findings } = JSON.parse(explained.stdout) as Report;
      assert.deepEqual(unexplained, []);
      assert.deepEqual(
        findings.map(({ verdict }) => verdict),
        ['no-listener'],
      );
      assert.equal(findings[0]!.subject.netns, name);
      // the node's process, by its id on the node
      assert.equal(findings[0]!.subject.command?.split(' ')[0], 'bash');
    } finally {
      removeNetns(name);
    }
  });

  test('is a daemon by default, which ends at once and leaves nothing', async () => {
    // its usual port may be taken among the host's own
    const name = netnsName('daemon');
    addNetns(name);
    try {
      const options = ['--privileged', '--pid=host', `--net=ns:/run/netns/${name}`];
      const daemon = image.start(options);
      await until('it serves', START_MS, () => /serving http/.test(daemon.stderr()));
      const url = 'http://127.0.0.1:6363';
      const fetched = (path: string) =>
        inside(
          name,
          `${process.execPath} -e 'fetch("${url}${path}").then(({ status }) => console.log(status))'`,
        ).trim();
      assert.equal(fetched('/healthz'), '200');
      assert.equal(fetched('/'), '200');
      const programs = programsOf(image.pidOf(daemon));
      assert.ok(programs.length > 0);
      assert.ok(programs.every(isLoaded));
      const asked = performance.now();
      daemon.process.kill('SIGTERM');
      const { status, stderr } = await daemon.ended;
      assert.equal(status, 0, stderr);
      assert.ok(performance.now() - asked < 5000);
      // the kernel frees a program a moment after its last holder has gone
      await until('all are unloaded', 5000, () => !programs.some(isLoaded));
    } finally {
      removeNetns(name);
    }
  });

  test('runs no lab, and says so', async () => {
    const { status, stdout, stderr } = await image.run(ON_NODE, 'lab', 'double-snat');
    assert.equal(status, 1);
    assert.equal(stdout, '');
    assert.match(stderr, /^skbwhy: no lab .*\[no-lab\]\n$/);
  });

  test('says in one line that it needs more privilege', async () => {
    const { status, stderr } = await image.run(['--net=host'], 'record', 'x.skbw');
    assert.equal(status, 1);
    assert.match(stderr, /^skbwhy: .*\[no-privilege\]\n$/);
  });

  test('explains without any privilege', async () => {
    chmodSync(folder, 0o755);
    chmodSync(join(folder, 'seen.skbw'), 0o644);
    const options = ['--net=none', '--user=65534', '--read-only', `--volume=${folder}:/data:ro`];
    const { status, stdout, stderr } = await image.run(options, 'explain', 'seen.skbw');
    assert.equal(status, 0, stderr);
    assert.match(stdout, /nobody listens on TCP 127\.0\.0\.1:9/);
  });
});
