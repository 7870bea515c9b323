import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { parseIptables } from '../../src/host/rules/iptables.js';
import { judge, type Judgement, type TunnelEnd } from '../../src/host/rules/paths.js';

const TUNNEL: TunnelEnd = {
  device: 'vx0',
  via: 'vx0',
  destinations: ['10.244.1.0/24'],
  local: '192.168.100.2',
  peers: ['192.168.100.1'],
  family: 'ip',
  port: 8472,
  sourcePorts: [32768, 60999],
  underlay: 'eth0',
  underlayAddress: '192.168.100.2',
};

/** Rules of nat (and of mangle, before a line `--`), judged for a tunnel. */
async function verdict(rules: string, tunnel: Partial<TunnelEnd> = {}): Promise<Judgement> {
  const [first = '', second] = rules.split('\n--\n');
  const table = (name: string, text: string): string => {
    const lines = text
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean);
    const builtin = ['PREROUTING', 'OUTPUT', 'POSTROUTING'];
    const chains = new Set(lines.map((line) => line.split(' ')[1] ?? ''));
    for (const chain of builtin) chains.delete(chain);
    return [
      `*${name}`,
      ...builtin.map((chain) => `:${chain} ACCEPT`),
      ...[...chains].map((chain) => `:${chain} -`),
      ...lines,
      'COMMIT\n',
    ].join('\n');
  };
  const text =
    second === undefined ? table('nat', first) : table('mangle', first) + table('nat', second);
  const tables = await parseIptables(text, 'iptables-legacy', 'ip');
  return judge(tables, [{ ...TUNNEL, ...tunnel }]);
}

const MARKING = `
  -A OUTPUT -j SERVICES
  -A SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j MARK-MASQ
  -A MARK-MASQ -j MARK --set-xmark 0x4000/0x4000`;
const POSTROUTING = '-A POSTROUTING -m comment --comment "x y" -j KUBE';
const PLAIN = '-A KUBE -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully';
const XOR = `
  -A KUBE -m mark ! --mark 0x4000/0x4000 -j RETURN
  -A KUBE -j MARK --set-xmark 0x4000/0x0
  -A KUBE -j MASQUERADE --random-fully`;
const CNI = '-A POSTROUTING ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully';

const rules = (...lines: string[]): string => lines.join('\n');

suite('the way through nat POSTROUTING', () => {
  test('a mark that survives is masqueraded twice by one rule; clearing it would cure', async () => {
    const { paths, marking, masquerade } = await verdict(rules(MARKING, POSTROUTING, PLAIN));
    assert.equal(paths.length, 1);
    const [path] = paths;
    assert.equal(path!.mark, 0x4000);
    assert.equal(path!.first!.text, PLAIN);
    assert.equal(path!.second.text, PLAIN);
    assert.equal(path!.second.chain, 'KUBE');
    assert.equal(path!.marking[0]!.chain, 'MARK-MASQ');
    assert.equal(path!.changes, 'port');
    assert.equal(path!.curedByClearing, true);
    assert.equal(path!.masqueradeFirst, false);
    assert.deepEqual(path!.assumes, []);
    assert.deepEqual(
      marking.map(({ value, mask }) => ({ value, mask })),
      [{ value: 0x4000, mask: 0x4000 }],
    );
    assert.deepEqual(masquerade[0]!.mark, { value: 0x4000, mask: 0x4000 });
  });

  for (const mark of ['0x1', '0x8000', '0x80000000', '0x2000'])
    test(`any mark bit: ${mark}`, async () => {
      const text = rules(MARKING, POSTROUTING, PLAIN).replaceAll('0x4000', mark);
      assert.equal((await verdict(text)).paths[0]?.mark, Number(mark));
    });

  test('a mark cleared before masquerading leaves the outer packet alone', async () => {
    const { paths, spared } = await verdict(rules(MARKING, POSTROUTING, XOR));
    assert.deepEqual(paths, []);
    assert.equal(spared[0]!.reason, 'mark-cleared');
    assert.match(spared[0]!.rule!.text, /--set-xmark 0x4000\/0x0/);
  });

  test('without another port nothing changes', async () => {
    const { paths, spared } = await verdict(
      rules(MARKING, POSTROUTING, PLAIN).replace(' --random-fully', ''),
    );
    assert.deepEqual(paths, []);
    assert.equal(spared[0]!.reason, 'outer-unchanged');
  });

  test('--random and a port range outside the tunnel’s ports change the port as well', async () => {
    for (const option of ['--random', '--to-ports 1024-2000']) {
      const text = rules(MARKING, POSTROUTING, PLAIN).replace('--random-fully', option);
      assert.equal((await verdict(text)).paths[0]?.changes, 'port', option);
    }
    const wide = rules(MARKING, POSTROUTING, PLAIN).replace(
      '--random-fully',
      '--to-ports 1024-65535',
    );
    assert.deepEqual((await verdict(wide)).paths, []);
  });

  test('masquerading to another address than the tunnel’s changes the address', async () => {
    const text = rules(MARKING, POSTROUTING, PLAIN).replace(' --random-fully', '');
    const { paths } = await verdict(text, { underlayAddress: '192.168.100.77' });
    assert.equal(paths[0]?.changes, 'address');
  });

  test('a rule that masquerades before the mark is cleared is named, clearing is no cure', async () => {
    const { paths } = await verdict(rules(MARKING, CNI, POSTROUTING, XOR));
    assert.equal(paths.length, 1);
    assert.equal(paths[0]!.first!.text, CNI);
    assert.match(paths[0]!.second.text, /-A KUBE -j MASQUERADE/);
    assert.equal(paths[0]!.masqueradeFirst, true);
    assert.equal(paths[0]!.curedByClearing, false);
    assert.match(paths[0]!.clearing!.text, /--set-xmark/);
  });

  test('the same rule behind the chain that clears the mark does no harm', async () => {
    assert.deepEqual((await verdict(rules(MARKING, POSTROUTING, CNI, XOR))).paths, []);
  });

  test('a CNI that lets marked packets pass first is no way either', async () => {
    const flannel = `
      -A POSTROUTING -j FLANNEL
      -A FLANNEL -m mark --mark 0x4000/0x4000 -j RETURN
      -A FLANNEL -s 10.244.2.0/24 -d 10.244.0.0/16 -j RETURN
      -A FLANNEL -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
      -A FLANNEL ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully`;
    assert.deepEqual((await verdict(rules(MARKING, flannel, POSTROUTING, XOR))).paths, []);
  });

  test('a packet that leaves POSTROUTING with its mark is masqueraded outside only, once', async () => {
    const leaving = '-A POSTROUTING -d 10.244.0.0/16 -j ACCEPT';
    const { paths } = await verdict(rules(MARKING, leaving, POSTROUTING, XOR));
    assert.equal(paths[0]!.first, null);
    assert.equal(paths[0]!.mark, 0x4000);
    assert.equal(paths[0]!.curedByClearing, false);
  });

  test('addresses excluded by an earlier rule stay excluded', async () => {
    const text = rules(
      MARKING,
      '-A POSTROUTING -j CNI',
      '-A CNI -d 10.244.0.0/16 -j RETURN',
      '-A CNI -d 10.244.1.0/24 -j MASQUERADE --random-fully',
      POSTROUTING,
      XOR,
    );
    assert.deepEqual((await verdict(text)).paths, []);
  });

  test('a condition that cannot be judged makes an assumption, a certain way comes first', async () => {
    const set = '-A POSTROUTING -m set --match-set LOOP dst,dst,src -j MASQUERADE --random-fully';
    const unsure = await verdict(rules(MARKING, set, POSTROUTING, XOR));
    assert.deepEqual(unsure.paths[0]!.assumes, ['--match-set LOOP dst,dst,src']);
    const sure = await verdict(rules(MARKING, set, POSTROUTING, PLAIN));
    assert.deepEqual(sure.paths[0]!.assumes, []);
    assert.equal(sure.paths[0]!.first!.text, PLAIN);
  });

  test('a mark cleared in mangle before nat is reached is no mark', async () => {
    const clearing = '-A POSTROUTING -j MARK --and-mark 0xffffbfff\n--\n';
    const { paths } = await verdict(clearing + rules(MARKING, POSTROUTING, PLAIN));
    assert.deepEqual(paths, []);
  });

  test('a mark set in mangle counts', async () => {
    const setting = '-A OUTPUT -p tcp -j MARK --set-xmark 0x4000/0x4000\n--\n';
    const { paths } = await verdict(setting + rules(POSTROUTING, PLAIN));
    assert.equal(paths[0]?.marking[0]?.table, 'mangle');
  });

  test('a mark that no rule sets may come from a program: said as an assumption', async () => {
    const { paths } = await verdict(rules(POSTROUTING, PLAIN));
    assert.equal(paths[0]?.marking.length, 0);
    assert.match(paths[0]?.assumes[0] ?? '', /something other than these rules sets mark 0x4000/);
  });

  test('chains that nothing jumps to do not count', async () => {
    const orphan = '-A ORPHAN -j MARK --set-xmark 0x4000/0x4000';
    assert.deepEqual((await verdict(rules(orphan, POSTROUTING, PLAIN))).marking, []);
  });

  test('a rule for every packet out of the underlay needs no mark', async () => {
    const { paths } = await verdict('-A POSTROUTING -o eth0 -j MASQUERADE --random-fully');
    assert.equal(paths[0]?.mark, 0);
    assert.equal(paths[0]?.first, null);
    assert.equal(paths[0]?.curedByClearing, false);
    const docker = '-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE --random-fully';
    assert.deepEqual((await verdict(docker)).paths, []);
  });

  test('an exception for the tunnel’s port spares it', async () => {
    const except = '-A POSTROUTING -p udp -m udp --dport 8472 -j ACCEPT';
    const { paths, spared } = await verdict(rules(MARKING, except, POSTROUTING, PLAIN));
    assert.deepEqual(paths, []);
    assert.equal(spared[0]!.reason, 'outer-not-masqueraded');
    const other = await verdict(rules(MARKING, except, POSTROUTING, PLAIN), { port: 4789 });
    assert.equal(other.paths[0]?.first?.text, PLAIN);
  });

  test('peers that are not known make a rule about them an assumption', async () => {
    const { paths } = await verdict(rules(MARKING, CNI, POSTROUTING, XOR), { peers: [] });
    assert.deepEqual(paths[0]!.assumes, []);
    assert.ok(paths.slice(1).every(({ assumes }) => assumes.length > 0));
  });

  test('loops of chains and long ones end', async () => {
    const loop = rules('-A POSTROUTING -j A', '-A A -j B', '-A B -j A');
    const many = Array.from(
      { length: 3000 },
      (_, n) => `-A POSTROUTING -s 10.${n % 250}.0.0/16 -d 10.244.${n % 250}.0/24 -j A`,
    );
    const started = performance.now();
    const { paths } = await verdict(rules(MARKING, loop, ...many, POSTROUTING, PLAIN));
    assert.equal(paths[0]?.second.text, PLAIN);
    assert.ok(performance.now() - started < 10_000);
  });
});
