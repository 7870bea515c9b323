import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Elf } from '../../src/probe/elf.js';

interface BpfScript {
  sourceHash(): string;
  compiler(): string | null;
  build(clang: string, target: string, output: string): void;
  targets: string[];
}

const root = new URL('../../../', import.meta.url);
const script = (await import(new URL('scripts/bpf.js', root).href)) as BpfScript;
const layout = (await import(new URL('scripts/layout.js', root).href)) as {
  layoutModule(): string;
};
const read = (path: string) => readFileSync(new URL(path, root));

describe('the committed eBPF objects', () => {
  test('are built from these sources', () => {
    assert.equal(read('bpf/skbwhy.sha256').toString().trim(), script.sourceHash());
  });

  const clang = script.compiler();
  for (const target of script.targets)
    test(
      `are what clang 14 makes of them: ${target}`,
      { skip: clang ? false : 'clang 14 is not installed' },
      () => {
        const folder = mkdtempSync(join(tmpdir(), 'skbwhy-bpf-'));
        try {
          const output = join(folder, 'fresh.o');
          script.build(clang ?? '', target, output);
          assert.ok(readFileSync(output).equals(read(`bpf/skbwhy.${target}.o`)));
        } finally {
          rmSync(folder, { recursive: true });
        }
      },
    );

  for (const target of script.targets)
    test(`have type information and a place for everything set at start: ${target}`, () => {
      const elf = new Elf(read(`bpf/skbwhy.${target}.o`));
      assert.ok(elf.section('.BTF'));
      for (const name of ['hz', 'netns_only', 'filtering', 'kfree_skb_arguments'])
        assert.ok(elf.symbol(name), name);
      assert.ok((elf.symbol('expression')?.size ?? 0) >= 2048 * 8);
      assert.ok(!elf.bytes.includes(fileURLToPath(root)), 'no path of the build machine');
    });

  test('have the record layout that src/event/layout.ts says', () => {
    assert.equal(read('src/event/layout.ts').toString(), layout.layoutModule());
  });
});
