import { SkbwhyError } from '../event/errors.js';

export type SettingValue = string | number | boolean;

/** One `--set key=value` of a lab: the data behind `lab NAME --help` and the README's table. */
export interface Setting {
  readonly key: string;
  readonly kind: 'boolean' | 'number' | 'text';
  /** what a number counts: 's' … */
  readonly unit?: string;
  /** null: whatever the kernel does by itself */
  readonly default: SettingValue | null;
  /** for kind 'text': the only values allowed */
  readonly values?: readonly string[];
  /** for kind 'number': inclusive bounds; numbers are whole unless `fraction` is set */
  readonly range?: readonly [min: number, max: number];
  readonly fraction?: true;
  /** for kind 'text': what a value must look like, and how to say so */
  readonly pattern?: readonly [RegExp, string];
  /** one sentence */
  readonly help: string;
}

type Wide<S extends Setting> = S['kind'] extends 'boolean'
  ? boolean
  : S['kind'] extends 'number'
    ? number
    : S extends { values: readonly (infer V)[] }
      ? V
      : string;

/** The values of settings declared `as const`, by key. */
export type SettingsOf<L extends readonly Setting[]> = {
  readonly [S in L[number] as S['key']]: Wide<S> | (null extends S['default'] ? null : never);
};

export type Settings = Readonly<Record<string, SettingValue | null>>;

const BOOLEANS = new Map(
  Object.entries({
    true: true,
    yes: true,
    on: true,
    '1': true,
    false: false,
    no: false,
    off: false,
    '0': false,
  }),
);

/**
 * Reads `key=value` assignments; keys that are not assigned get their default, the last of several
 * assignments wins. Numbers may be decimal or 0x….
 * Throws `bad-option` naming the known keys, or the values that a key takes.
 */
export function parseSettings<L extends readonly Setting[]>(
  lab: { readonly name: string; readonly settings: L },
  assignments: readonly string[],
): SettingsOf<L> {
  const values: Record<string, SettingValue | null> = {};
  for (const setting of lab.settings) values[setting.key] = setting.default;
  for (const assignment of assignments) {
    const equals = assignment.indexOf('=');
    const key = equals < 0 ? assignment : assignment.slice(0, equals);
    const setting = lab.settings.find((known) => known.key === key);
    if (!setting) {
      const known = lab.settings.map((each) => each.key).join(', ');
      throw new SkbwhyError(
        'bad-option',
        `lab ${lab.name} has no setting '${key}'; it has ${known}`,
      );
    }
    if (equals < 0) {
      throw new SkbwhyError('bad-option', `--set ${key}: no value; it takes ${takes(setting)}`);
    }
    const value = parseValue(setting, assignment.slice(equals + 1));
    if (value === undefined) {
      throw new SkbwhyError('bad-option', `--set ${assignment}: it takes ${takes(setting)}`);
    }
    values[key] = value;
  }
  return values as SettingsOf<L>;
}

/** What a setting accepts, for people: `true or false`, `seconds from 0 to 600`, `udpcsum or noudpcsum`. */
export function takes(setting: Setting): string {
  if (setting.kind === 'boolean') return 'true or false';
  if (setting.kind === 'text') {
    return setting.values?.join(' or ') ?? setting.pattern?.[1] ?? 'any text';
  }
  const what = setting.fraction ? 'a number' : 'a whole number';
  const unit = setting.unit ? ` (${setting.unit})` : '';
  return setting.range
    ? `${what}${unit} from ${setting.range[0]} to ${setting.range[1]}`
    : what + unit;
}

function parseValue(setting: Setting, text: string): SettingValue | undefined {
  switch (setting.kind) {
    case 'boolean':
      return BOOLEANS.get(text.toLowerCase());
    case 'number': {
      const number = /^(0x[0-9a-f]+|\d+(\.\d+)?)$/i.test(text) ? Number(text) : NaN;
      const [min, max] = setting.range ?? [0, Number.MAX_SAFE_INTEGER];
      const whole = setting.fraction === true || Number.isInteger(number);
      return whole && number >= min && number <= max ? number : undefined;
    }
    case 'text': {
      const allowed = setting.values?.includes(text) ?? setting.pattern?.[0].test(text) ?? true;
      return allowed ? text : undefined;
    }
  }
}
