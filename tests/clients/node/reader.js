// A reader by zongji: prints one line of JSON per change, as docs/testing.md says.
//
//     reader.js OPTIONS     a file of NAME=VALUE lines

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import ZongJi from '@vlasky/zongji';

// Longer values are shown by their digest.
const LONG = 200;

const CHANGES = { writerows: 'insert', updaterows: 'update', deleterows: 'delete' };

const options = Object.fromEntries(
  readFileSync(process.argv[2], 'utf8')
    .split('\n')
    .filter((line) => line.includes('='))
    .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
);

function say(fields) {
  process.stdout.write(`${JSON.stringify(fields)}\n`);
}

function fail(error) {
  process.stderr.write(`${error.stack ?? error}\n`);
  process.exit(1);
}

function shown(row) {
  const values = {};
  for (const [name, value] of Object.entries(row)) {
    const raw = Buffer.isBuffer(value) ? value : Buffer.from(String(value));
    if (raw.length > LONG) {
      values[name] = `${raw.length} bytes, md5 ${createHash('md5').update(raw).digest('hex')}`;
    } else {
      values[name] = Buffer.isBuffer(value) ? value.toString('latin1') : value;
    }
  }
  return values;
}

const login = {
  host: options.host,
  port: Number(options.port),
  user: options.user,
  password: options.password,
};
if (options.tls) {
  login.ssl = { rejectUnauthorized: false };
}
if (options.compression) {
  login.compress = true;
}

const reader = new ZongJi(login);
reader.on('error', fail);
reader.on('binlog', (event) => {
  const name = event.getEventName();
  const change = CHANGES[name];
  if (name === 'gtid' || name === 'mariadbgtid') {
    say({ kind: 'begin', gtid: event.gtid });
  } else if (change) {
    const table = event.tableMap[event.tableId];
    for (const row of event.rows) {
      say({
        kind: 'row',
        change,
        table: `${table.parentSchema}.${table.tableName}`,
        values: change === 'update' ? [shown(row.before), shown(row.after)] : shown(row),
      });
    }
  } else if (name === 'query' && event.query !== 'BEGIN') {
    say({ kind: 'query', text: event.query });
    end(event);
  } else if (name === 'xid') {
    end(event);
  }
});

function end(event) {
  say({ kind: 'end', file: reader.options.filename, position: event.nextPosition });
}

const start =
  options.mode === 'position'
    ? { filename: options.file, position: Number(options.position) }
    : { gtidSet: options.gtids };
reader.start({ serverId: Number(options['server-id']), ...start });
