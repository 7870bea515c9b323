import { FileWriter } from '../../src/session/file-writer.js';
import { batch, header } from './session-records.js';

// Writes a record every 10 ms to the file named by the first argument and prints how many so far.
const writer = await FileWriter.create(process.argv[2]!, header());
let seq = 0;
setInterval(() => {
  void writer.write(batch(seq++, 1)).then(() => process.stdout.write(`${Date.now()} ${seq}\n`));
}, 10);
