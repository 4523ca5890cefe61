import com.alibaba.otter.canal.parse.driver.mysql.packets.MysqlGTIDSet;
import com.alibaba.otter.canal.parse.inbound.SinkFunction;
import com.alibaba.otter.canal.parse.inbound.mysql.MysqlConnection;
import com.taobao.tddl.dbsync.binlog.LogEvent;
import com.taobao.tddl.dbsync.binlog.event.DeleteRowsLogEvent;
import com.taobao.tddl.dbsync.binlog.event.GtidLogEvent;
import com.taobao.tddl.dbsync.binlog.event.QueryLogEvent;
import com.taobao.tddl.dbsync.binlog.event.RotateLogEvent;
import com.taobao.tddl.dbsync.binlog.event.RowsLogBuffer;
import com.taobao.tddl.dbsync.binlog.event.RowsLogEvent;
import com.taobao.tddl.dbsync.binlog.event.TableMapLogEvent;
import com.taobao.tddl.dbsync.binlog.event.UpdateRowsLogEvent;
import com.taobao.tddl.dbsync.binlog.event.XidLogEvent;
import java.io.PrintStream;
import java.io.Reader;
import java.io.Serializable;
import java.net.InetSocketAddress;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.BitSet;
import java.util.HexFormat;
import java.util.Properties;

/**
 * A reader by the parser of Alibaba's canal: one line of JSON per change, as docs/testing.md says. It
 * asks beforehand what canal's server asks, and ends when the connection does.
 */
final class CanalReader {
  /** Longer values are shown by their digest. */
  private static final int LONG = 200;

  private static final PrintStream OUT = System.out;

  private String file;

  private CanalReader(String file) {
    this.file = file;
  }

  public static void main(String[] arguments) throws Exception {
    // The library logs to standard output, which is for the lines.
    System.setOut(System.err);
    Properties options = new Properties();
    try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
      options.load(file);
    }
    InetSocketAddress address =
        new InetSocketAddress(
            options.getProperty("host"), Integer.parseInt(options.getProperty("port")));
    MysqlConnection connection =
        new MysqlConnection(
            address, options.getProperty("user"), options.getProperty("password"), (byte) 33, "");
    connection.setCharset(StandardCharsets.UTF_8);
    connection.setSlaveId(Long.parseLong(options.getProperty("server-id")));
    connection.connect();
    System.err.println(
        connection.queryServerId()
            + " "
            + connection.getBinlogFormat()
            + " "
            + connection.getBinlogImage()
            + " "
            + connection.query("show variables like 'rds\\_%'").getFieldValues()
            + " "
            + connection.query("show binlog events limit 1").getFieldValues());
    connection.reconnect();
    CanalReader reader = new CanalReader(options.getProperty("file"));
    SinkFunction<LogEvent> sink = reader::take;
    if (options.getProperty("mode").equals("position")) {
      connection.dump(
          options.getProperty("file"), Long.parseLong(options.getProperty("position")), sink);
    } else {
      connection.dump(MysqlGTIDSet.parse(options.getProperty("gtids")), sink);
    }
    System.err.println("the stream ended");
    System.exit(1);
  }

  private boolean take(LogEvent event) {
    if (event instanceof RotateLogEvent rotate) {
      file = rotate.getFilename();
    } else if (event instanceof GtidLogEvent gtid) {
      say("\"kind\":\"begin\",\"gtid\":" + quoted(gtid.getGtidStr()));
    } else if (event instanceof RowsLogEvent rows) {
      takeRows(rows);
    } else if (event instanceof QueryLogEvent query) {
      if (!query.getQuery().equals("BEGIN")) {
        say("\"kind\":\"query\",\"text\":" + quoted(query.getQuery()));
        sayEnd(event);
      }
    } else if (event instanceof XidLogEvent) {
      sayEnd(event);
    }
    return true;
  }

  private void takeRows(RowsLogEvent rows) {
    TableMapLogEvent table = rows.getTable();
    Charset charset = StandardCharsets.ISO_8859_1;
    RowsLogBuffer buffer = rows.getRowsBuf(charset);
    BitSet columns = rows.getColumns();
    boolean isUpdate = rows instanceof UpdateRowsLogEvent;
    String change = isUpdate ? "update" : rows instanceof DeleteRowsLogEvent ? "delete" : "insert";
    while (buffer.nextOneRow(columns, false)) {
      String values = shown(buffer, table, columns);
      if (isUpdate && buffer.nextOneRow(rows.getChangeColumns(), true)) {
        values = "[" + values + "," + shown(buffer, table, rows.getChangeColumns()) + "]";
      }
      say(
          "\"kind\":\"row\",\"change\":"
              + quoted(change)
              + ",\"table\":"
              + quoted(table.getDbName() + "." + table.getTableName())
              + ",\"values\":"
              + values);
    }
  }

  private static String shown(RowsLogBuffer buffer, TableMapLogEvent table, BitSet columns) {
    StringBuilder text = new StringBuilder("[");
    TableMapLogEvent.ColumnInfo[] known = table.getColumnInfo();
    for (int column = 0; column < table.getColumnCnt(); column++) {
      if (!columns.get(column)) {
        continue;
      }
      text.append(text.length() > 1 ? "," : "");
      TableMapLogEvent.ColumnInfo info = known[column];
      Serializable value = buffer.nextValue(info.name, column, info.type, info.meta, false);
      if (buffer.isNull()) {
        text.append("null");
        continue;
      }
      byte[] bytes =
          value instanceof byte[] raw
              ? raw
              : String.valueOf(value).getBytes(StandardCharsets.ISO_8859_1);
      text.append(
          quoted(
              bytes.length > LONG
                  ? digest(bytes)
                  : new String(bytes, StandardCharsets.ISO_8859_1)));
    }
    return text.append("]").toString();
  }

  private void sayEnd(LogEvent event) {
    say("\"kind\":\"end\",\"file\":" + quoted(file) + ",\"position\":" + event.getLogPos());
  }

  private static void say(String fields) {
    OUT.println("{" + fields + "}");
    OUT.flush();
  }

  private static String digest(byte[] bytes) {
    try {
      byte[] sum = MessageDigest.getInstance("MD5").digest(bytes);
      return bytes.length + " bytes, md5 " + HexFormat.of().formatHex(sum);
    } catch (java.security.NoSuchAlgorithmException impossible) {
      throw new AssertionError(impossible);
    }
  }

  private static String quoted(String text) {
    StringBuilder quoted = new StringBuilder("\"");
    for (char each : text.toCharArray()) {
      if (each == '"' || each == '\\') {
        quoted.append('\\').append(each);
      } else if (each < ' ' || each > '~') {
        quoted.append(String.format("\\u%04x", (int) each));
      } else {
        quoted.append(each);
      }
    }
    return quoted.append('"').toString();
  }
}
