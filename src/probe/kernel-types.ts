import { existsSync, readFileSync } from 'node:fs';
import { Btf } from './btf.js';

/** Its kprobes as a source of events, which programs are attached to (Linux 4.17, CONFIG_KPROBE_EVENTS). */
const KPROBES = '/sys/bus/event_source/devices/kprobe/type';

/**
 * The type information of the running kernel and, as it is asked for, of its modules; and the names of
 * their functions, for modules without type information.
 */
export class KernelTypes {
  private readonly modules = new Map<string, Btf | null>();
  private symbols: string | undefined;

  private constructor(readonly btf: Btf) {}

  /** @throws SkbwhyError 'no-btf' */
  static read(): KernelTypes {
    return new KernelTypes(Btf.ofKernel());
  }

  /** Is a function in the kernel itself or, where named, in a module that is loaded? */
  hasFunction(name: string, module?: string): boolean {
    if (this.btf.hasFunction(name)) return true;
    return module !== undefined && this.ofModule(module)?.hasFunction(name) === true;
  }

  /** Does this kernel have kprobes, and a function of that name, in whatever module? */
  takesKprobe(name: string): boolean {
    if (!existsSync(KPROBES)) return false;
    this.symbols ??= readFileSync('/proc/kallsyms', 'latin1');
    return new RegExp(` [tT] ${name}(\t|$)`, 'm').test(this.symbols);
  }

  /** null: not loaded, or without type information (before Linux 5.11) */
  private ofModule(name: string): Btf | null {
    let types = this.modules.get(name);
    if (types === undefined) {
      try {
        types = new Btf(readFileSync(`/sys/kernel/btf/${name}`), this.btf);
      } catch {
        types = null;
      }
      this.modules.set(name, types);
    }
    return types;
  }
}
