import com.github.shyiko.mysql.binlog.BinaryLogClient;
import com.github.shyiko.mysql.binlog.event.DeleteRowsEventData;
import com.github.shyiko.mysql.binlog.event.Event;
import com.github.shyiko.mysql.binlog.event.EventData;
import com.github.shyiko.mysql.binlog.event.EventHeaderV4;
import com.github.shyiko.mysql.binlog.event.GtidEventData;
import com.github.shyiko.mysql.binlog.event.MariadbGtidEventData;
import com.github.shyiko.mysql.binlog.event.QueryEventData;
import com.github.shyiko.mysql.binlog.event.TableMapEventData;
import com.github.shyiko.mysql.binlog.event.UpdateRowsEventData;
import com.github.shyiko.mysql.binlog.event.WriteRowsEventData;
import com.github.shyiko.mysql.binlog.event.XidEventData;
import com.github.shyiko.mysql.binlog.event.deserialization.EventDeserializer;
import com.github.shyiko.mysql.binlog.event.deserialization.EventDeserializer.CompatibilityMode;
import com.github.shyiko.mysql.binlog.network.SSLMode;
import java.io.Reader;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.Map;
import java.util.Properties;

/**
 * A reader by mysql-binlog-connector-java: one line of JSON per change, as docs/testing.md says. It
 * connects again by itself when the connection is lost.
 */
final class BinlogReader {
  /** Longer values are shown by their digest. */
  private static final int LONG = 200;

  private final Map<Long, String> tables = new HashMap<>();
  private final BinaryLogClient client;

  private BinlogReader(Properties options) {
    client =
        new BinaryLogClient(
            options.getProperty("host"),
            Integer.parseInt(options.getProperty("port")),
            options.getProperty("user"),
            options.getProperty("password"));
    client.setServerId(Long.parseLong(options.getProperty("server-id")));
    client.setHeartbeatInterval(1000);
    client.setKeepAlive(true);
    client.setKeepAliveInterval(1000);
    client.setConnectTimeout(5000);
    client.setSSLMode(options.getProperty("tls", "").isEmpty() ? SSLMode.DISABLED : SSLMode.REQUIRED);
    if (options.getProperty("mode").equals("position")) {
      client.setBinlogFilename(options.getProperty("file"));
      client.setBinlogPosition(Long.parseLong(options.getProperty("position")));
    } else {
      client.setGtidSet(options.getProperty("gtids"));
    }
    EventDeserializer deserializer = new EventDeserializer();
    deserializer.setCompatibilityMode(
        CompatibilityMode.DATE_AND_TIME_AS_LONG, CompatibilityMode.CHAR_AND_BINARY_AS_BYTE_ARRAY);
    client.setEventDeserializer(deserializer);
    client.registerEventListener(this::take);
    client.registerLifecycleListener(
        new BinaryLogClient.AbstractLifecycleListener() {
          @Override
          public void onCommunicationFailure(BinaryLogClient from, Exception error) {
            System.err.println("communication: " + error);
          }

          @Override
          public void onEventDeserializationFailure(BinaryLogClient from, Exception error) {
            System.err.println("deserialization: " + error);
            System.exit(1);
          }
        });
  }

  public static void main(String[] arguments) throws Exception {
    Properties options = new Properties();
    try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
      options.load(file);
    }
    new BinlogReader(options).client.connect();
    // connect() returns when the first connection ends; another thread connects again.
    Thread.currentThread().join();
  }

  private void take(Event event) {
    EventData data = event.getData();
    EventHeaderV4 header = event.getHeader();
    if (data instanceof GtidEventData gtid) {
      say("\"kind\":\"begin\",\"gtid\":" + quoted(gtid.getMySqlGtid().toString()));
    } else if (data instanceof MariadbGtidEventData gtid) {
      long server = header.getServerId();
      String text = gtid.getDomainId() + "-" + server + "-" + gtid.getSequence();
      say("\"kind\":\"begin\",\"gtid\":" + quoted(text));
    } else if (data instanceof TableMapEventData map) {
      tables.put(map.getTableId(), map.getDatabase() + "." + map.getTable());
    } else if (data instanceof WriteRowsEventData rows) {
      for (Serializable[] row : rows.getRows()) {
        sayRow("insert", rows.getTableId(), shown(row));
      }
    } else if (data instanceof DeleteRowsEventData rows) {
      for (Serializable[] row : rows.getRows()) {
        sayRow("delete", rows.getTableId(), shown(row));
      }
    } else if (data instanceof UpdateRowsEventData rows) {
      for (Map.Entry<Serializable[], Serializable[]> row : rows.getRows()) {
        String both = "[" + shown(row.getKey()) + "," + shown(row.getValue()) + "]";
        sayRow("update", rows.getTableId(), both);
      }
    } else if (data instanceof QueryEventData query) {
      if (!query.getSql().equals("BEGIN")) {
        say("\"kind\":\"query\",\"text\":" + quoted(query.getSql()));
        sayEnd(header);
      }
    } else if (data instanceof XidEventData) {
      sayEnd(header);
    }
  }

  private void sayRow(String change, long table, String values) {
    say(
        "\"kind\":\"row\",\"change\":"
            + quoted(change)
            + ",\"table\":"
            + quoted(tables.get(table))
            + ",\"values\":"
            + values);
  }

  private void sayEnd(EventHeaderV4 header) {
    say(
        "\"kind\":\"end\",\"file\":"
            + quoted(client.getBinlogFilename())
            + ",\"position\":"
            + header.getNextPosition());
  }

  private static void say(String fields) {
    System.out.println("{" + fields + "}");
    System.out.flush();
  }

  private static String shown(Serializable[] row) {
    StringBuilder text = new StringBuilder("[");
    for (Serializable value : row) {
      text.append(text.length() > 1 ? "," : "");
      if (value == null) {
        text.append("null");
      } else if (value instanceof byte[] bytes) {
        text.append(quoted(bytes.length > LONG ? digest(bytes) : new String(bytes, StandardCharsets.ISO_8859_1)));
      } else {
        text.append(quoted(value.toString()));
      }
    }
    return text.append("]").toString();
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
