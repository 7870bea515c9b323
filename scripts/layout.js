// Writes src/event/layout.ts from the BTF of the built object: `npm run bpf && npm run layout`.
import { readFileSync, writeFileSync } from 'node:fs';
import { BTF_KIND, Btf } from '../dist/src/probe/btf.js';
import { Elf } from '../dist/src/probe/elf.js';

const object = new URL('../bpf/skbwhy.x86-64.o', import.meta.url);
const output = new URL('../src/event/layout.ts', import.meta.url);

/** Where each field of `struct event` stands; those of the union's structure by `socket.name`. */
function fields(btf, id, prefix, base) {
  return btf.members(id).flatMap(({ name, type, offset }) => {
    const at = base + offset;
    if (name.includes('unused')) return [];
    if (name === '') return fields(btf, type, prefix, at);
    if (name === 'socket') return fields(btf, type, 'socket.', at);
    return [{ name: prefix + name, at, size: btf.size(type) }];
  });
}

/** The text of src/event/layout.ts. */
export function layoutModule() {
  const elf = new Elf(readFileSync(object));
  const { offset, size } = elf.section('.BTF');
  const btf = new Btf(elf.bytes.subarray(offset, offset + size));
  const lines = fields(btf, btf.find(BTF_KIND.STRUCT, 'event'), '', 0).map(
    ({ name, at, size: bytes }) =>
      `  ${name.includes('.') ? `'${name}'` : name}: [${at}, ${bytes}],`,
  );
  return `// Generated from bpf/event.h's BTF by scripts/layout.js: do not edit.

/** Where each field of \`struct event\` stands: \`[offset, size]\` in bytes. */
export const LAYOUT = {
${lines.join('\n')}
} as const satisfies Layout;

export type Layout = Readonly<Record<string, readonly [offset: number, size: number]>>;
`;
}

if (process.argv[1] === new URL(import.meta.url).pathname) writeFileSync(output, layoutModule());
