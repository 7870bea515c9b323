import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SkbwhyError } from '../../src/event/errors.js';
import { lab as doubleSnat } from '../../src/faults/double-snat/lab.js';
import { parseSettings, takes, type Setting } from '../../src/lab/settings.js';

const settings = [
  { key: 'rehash', kind: 'boolean', default: true, help: '' },
  { key: 'wait', kind: 'number', unit: 's', default: 30, range: [1, 600], help: '' },
  { key: 'at', kind: 'number', unit: 's', fraction: true, default: 0, range: [0, 9], help: '' },
  { key: 'retries', kind: 'number', default: null, range: [0, 127], help: '' },
  { key: 'sum', kind: 'text', default: 'yes', values: ['yes', 'no'], help: '' },
  { key: 'name', kind: 'text', default: 'foo0', pattern: [/^\w+$/, 'a device name'], help: '' },
] as const satisfies readonly Setting[];
const lab = { name: 'example', settings };

const refused = (assignment: string, text: RegExp) =>
  assert.throws(
    () => parseSettings(lab, [assignment]),
    (error: unknown) =>
      error instanceof SkbwhyError &&
      error.code === 'bad-option' &&
      error.exitCode === 2 &&
      !error.message.includes('\n') &&
      text.test(error.message),
  );

describe('settings of a lab', () => {
  it('have their defaults when nothing is set', () => {
    assert.deepEqual(parseSettings(lab, []), {
      rehash: true,
      wait: 30,
      at: 0,
      retries: null,
      sum: 'yes',
      name: 'foo0',
    });
  });

  it('take booleans in the usual spellings', () => {
    for (const text of ['true', 'yes', 'on', '1', 'TRUE']) {
      assert.equal(parseSettings(lab, [`rehash=${text}`]).rehash, true);
    }
    for (const text of ['false', 'no', 'off', '0']) {
      assert.equal(parseSettings(lab, [`rehash=${text}`]).rehash, false);
    }
  });

  it('take numbers, hexadecimal ones too, and fractions where they make sense', () => {
    assert.equal(parseSettings(lab, ['wait=0x10']).wait, 16);
    assert.equal(parseSettings(lab, ['at=2.5']).at, 2.5);
    assert.equal(parseSettings(lab, ['retries=0']).retries, 0);
  });

  it('take the last of several assignments', () => {
    assert.equal(parseSettings(lab, ['sum=no', 'sum=yes', 'name=a', 'name=b']).name, 'b');
  });

  it('refuse an unknown key in one line that names the known ones', () => {
    refused('colour=red', /no setting 'colour'; it has rehash, wait, at, retries, sum, name$/);
    refused('toString=1', /no setting 'toString'/);
  });

  it('refuse a value of the wrong kind in one line that says what is taken', () => {
    refused('rehash=maybe', /true or false/);
    refused('rehash=constructor', /true or false/);
    refused('wait=soon', /a whole number \(s\) from 1 to 600/);
    refused('wait=0', /from 1 to 600/);
    refused('wait=1.5', /whole/);
    refused('wait=-1', /from 1/);
    refused('wait=', /from 1/);
    refused('sum=perhaps', /yes or no/);
    refused('name=a b', /a device name/);
    refused('wait', /no value/);
  });
});

describe('the settings of the double-snat lab', () => {
  it('accept their own defaults', () => {
    const assignments = doubleSnat.settings.flatMap((setting) =>
      setting.default === null ? [] : [`${setting.key}=${setting.default}`],
    );
    assert.deepEqual(parseSettings(doubleSnat, assignments), parseSettings(doubleSnat, []));
  });

  it('each say in one line what they are for and what they take', () => {
    for (const setting of doubleSnat.settings) {
      assert.match(setting.help, /^\S.*\S$/, setting.key);
      assert.ok(takes(setting), setting.key);
    }
  });
});
