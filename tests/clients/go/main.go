// Readers by go-mysql: its syncer and its canal. Each prints one line of JSON per change, as
// docs/testing.md says.
//
//	reader OPTIONS     a file of NAME=VALUE lines; "client" is syncer or canal
package main

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/canal"
	"github.com/go-mysql-org/go-mysql/client"
	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"
	"github.com/go-mysql-org/go-mysql/schema"
)

// Longer values are shown by their digest.
const long = 200

type options map[string]string

func (o options) number(name string) uint64 {
	value, err := strconv.ParseUint(o[name], 10, 32)
	if err != nil {
		fail(fmt.Errorf("%s: %w", name, err))
	}
	return value
}

func (o options) tls() *tls.Config {
	if o["tls"] == "" {
		return nil
	}
	return &tls.Config{InsecureSkipVerify: true}
}

func (o options) position() mysql.Position {
	return mysql.Position{Name: o["file"], Pos: uint32(o.number("position"))}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func say(fields map[string]any) {
	line, err := json.Marshal(fields)
	if err != nil {
		fail(err)
	}
	os.Stdout.Write(append(line, '\n'))
}

func shown(row []any) []any {
	values := make([]any, 0, len(row))
	for _, value := range row {
		raw, isBytes := value.([]byte)
		if !isBytes {
			raw = []byte(fmt.Sprint(value))
		}
		if len(raw) > long {
			values = append(values, fmt.Sprintf("%d bytes, md5 %x", len(raw), md5.Sum(raw)))
		} else if value == nil {
			values = append(values, nil)
		} else {
			values = append(values, string(raw))
		}
	}
	return values
}

func sayRows(change, table string, rows [][]any) {
	if change != "update" {
		for _, row := range rows {
			say(map[string]any{"kind": "row", "change": change, "table": table, "values": shown(row)})
		}
		return
	}
	for i := 0; i+1 < len(rows); i += 2 {
		both := []any{shown(rows[i]), shown(rows[i+1])}
		say(map[string]any{"kind": "row", "change": change, "table": table, "values": both})
	}
}

func sayEnd(gtids mysql.GTIDSet, pos mysql.Position) {
	fields := map[string]any{"kind": "end", "file": pos.Name, "position": pos.Pos}
	if gtids != nil {
		fields["gtids"] = gtids.String()
	}
	say(fields)
}

// sync reads with the syncer. It connects again by itself when the connection is lost.
func sync(o options) error {
	syncer := replication.NewBinlogSyncer(replication.BinlogSyncerConfig{
		ServerID:        uint32(o.number("server-id")),
		Flavor:          o["flavor"],
		Host:            o["host"],
		Port:            uint16(o.number("port")),
		User:            o["user"],
		Password:        o["password"],
		TLSConfig:       o.tls(),
		HeartbeatPeriod: time.Second,
		ReadTimeout:     30 * time.Second,
		VerifyChecksum:  true,
	})
	var streamer *replication.BinlogStreamer
	var err error
	if o["mode"] == "position" {
		streamer, err = syncer.StartSync(o.position())
	} else {
		var gtids mysql.GTIDSet
		if gtids, err = mysql.ParseGTIDSet(o["flavor"], o["gtids"]); err == nil {
			streamer, err = syncer.StartSyncGTID(gtids)
		}
	}
	if err != nil {
		return err
	}
	file := o["file"]
	for {
		event, err := streamer.GetEvent(context.Background())
		if err != nil {
			return err
		}
		pos := mysql.Position{Name: file, Pos: event.Header.LogPos}
		switch e := event.Event.(type) {
		case *replication.RotateEvent:
			file = string(e.NextLogName)
		case *replication.GTIDEvent:
			next, err := e.GTIDNext()
			if err != nil {
				return err
			}
			say(map[string]any{"kind": "begin", "gtid": next.String()})
		case *replication.MariadbGTIDEvent:
			say(map[string]any{"kind": "begin", "gtid": e.GTID.String()})
		case *replication.QueryEvent:
			if text := string(e.Query); text != "BEGIN" {
				say(map[string]any{"kind": "query", "text": text})
				sayEnd(e.GSet, pos)
			}
		case *replication.XIDEvent:
			sayEnd(e.GSet, pos)
		case *replication.RowsEvent:
			table := string(e.Table.Schema) + "." + string(e.Table.Table)
			switch event.Header.EventType {
			case replication.WRITE_ROWS_EVENTv1, replication.WRITE_ROWS_EVENTv2:
				sayRows("insert", table, e.Rows)
			case replication.DELETE_ROWS_EVENTv1, replication.DELETE_ROWS_EVENTv2:
				sayRows("delete", table, e.Rows)
			default:
				sayRows("update", table, e.Rows)
			}
		}
	}
}

// handler prints what canal tells.
type handler struct {
	canal.DummyEventHandler
	o       options
	canal   *canal.Canal
	changed bool // whether a statement was told since the last position
}

// learn gives canal the columns of a table as the source has them. Canal itself would ask the
// server that it reads from, and a relay has no tables.
func (h *handler) learn(database, table string) error {
	address := fmt.Sprintf("%s:%s", h.o["schema-host"], h.o["schema-port"])
	connection, err := client.Connect(address, h.o["schema-user"], h.o["schema-password"], "")
	if err != nil {
		return err
	}
	defer connection.Close()
	known, err := schema.NewTable(connection, database, table)
	if err == nil {
		h.canal.SetTableCache([]byte(database), []byte(table), known)
	}
	return err
}

func (h *handler) OnTableChanged(_ *replication.EventHeader, database, table string) error {
	if err := h.learn(database, table); err != nil {
		// A table that the statement dropped.
		fmt.Fprintln(os.Stderr, err)
	}
	return nil
}

func (h *handler) OnGTID(_ *replication.EventHeader, event mysql.BinlogGTIDEvent) error {
	next, err := event.GTIDNext()
	if err != nil {
		return err
	}
	say(map[string]any{"kind": "begin", "gtid": next.String()})
	return nil
}

func (h *handler) OnDDL(_ *replication.EventHeader, _ mysql.Position, e *replication.QueryEvent) error {
	say(map[string]any{"kind": "query", "text": string(e.Query)})
	h.changed = true
	return nil
}

func (h *handler) OnRow(e *canal.RowsEvent) error {
	sayRows(e.Action, e.Table.Schema+"."+e.Table.Name, e.Rows)
	return nil
}

func (h *handler) OnPosSynced(header *replication.EventHeader, pos mysql.Position, gtids mysql.GTIDSet, _ bool) error {
	// It tells a position after BEGIN as well.
	if header != nil && (header.EventType == replication.XID_EVENT || h.changed) {
		sayEnd(gtids, pos)
	}
	h.changed = false
	return nil
}

func (h *handler) String() string { return "clients" }

// follow reads with canal.
func follow(o options) error {
	config := canal.NewDefaultConfig()
	config.Addr = o["host"] + ":" + o["port"]
	config.User, config.Password = o["user"], o["password"]
	config.ServerID = uint32(o.number("server-id"))
	config.Flavor = o["flavor"]
	config.HeartbeatPeriod = time.Second
	config.ReadTimeout = 30 * time.Second
	config.TLSConfig = o.tls()
	config.Dump.ExecutionPath = ""
	config.IncludeTableRegex = []string{`shop\..*`}
	reader, err := canal.NewCanal(config)
	if err != nil {
		return err
	}
	h := &handler{o: o, canal: reader}
	reader.SetEventHandler(h)
	for _, table := range strings.Fields(o["tables"]) {
		database, name, _ := strings.Cut(table, ".")
		if err := h.learn(database, name); err != nil {
			return err
		}
	}
	if o["mode"] == "position" {
		return reader.RunFrom(o.position())
	}
	gtids, err := mysql.ParseGTIDSet(o["flavor"], o["gtids"])
	if err != nil {
		return err
	}
	return reader.StartFromGTID(gtids)
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	file, err := os.Open(os.Args[1])
	if err != nil {
		fail(err)
	}
	o := options{"flavor": mysql.MySQLFlavor}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), "="); found {
			o[name] = value
		}
	}
	if o["client"] == "canal" {
		err = follow(o)
	} else {
		err = sync(o)
	}
	if err != nil {
		fail(err)
	}
}
