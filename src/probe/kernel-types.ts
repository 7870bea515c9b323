import { readFileSync } from 'node:fs';
import { Btf } from './btf.js';

/** The type information of the running kernel and, as it is asked for, of its modules. */
export class KernelTypes {
  private readonly modules = new Map<string, Btf | null>();

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
