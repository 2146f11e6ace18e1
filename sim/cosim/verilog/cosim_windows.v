// Bytes that cross the memory bus in each window of the NPU's bandwidth monitor, counted at the memory.
//
// Only where a window begins is taken from the monitor. While `record` is 1, each window that begins and ends then is a line of windows.txt in the
// simulator's working directory: the cycle of its last cycle, the monitor's section and available bytes, the monitor's bytes of each source,
// and the bytes of each source that were counted here. Sources are other masters by their numbers, then the NPU's
// read bursts by their identifiers (fetch, loads), and its writes.

`default_nettype none

module cosim_windows #(
    parameter BEAT_BYTES  = 16,
    parameter SOURCES     = 7,
    parameter OTHERS      = 4,
    parameter BYTES_BITS  = 29,  // of a count
    parameter ID_BITS     = 2,
    parameter OTHER_BITS  = 2    // of the number of another master
) (
    input  wire                          clk,
    input  wire [63:0]                   now,
    input  wire                          record,
    input  wire                          begins,  // a window begins in the next cycle
    input  wire                          shown,   // what the monitor says is of another window, at most 15 cycles later
    input  wire [SOURCES*BYTES_BITS-1:0] monitor_bytes,
    input  wire [BYTES_BITS-1:0]         monitor_available,
    input  wire [1:0]                    monitor_section,
    input  wire                          other_beat,
    input  wire [OTHER_BITS-1:0]         other_id,
    input  wire                          read_beat,
    input  wire [ID_BITS-1:0]            read_id,
    input  wire                          write_beat
);
    integer file, index;
    reg [63:0] total [0:SOURCES-1];     // while recording
    reg [63:0] begun [0:SOURCES-1];     // total when the window began
    reg [63:0] complete [0:SOURCES-1];  // bytes of the last window that was complete
    reg [63:0] ended;                   // its last cycle
    reg        known, whole;            // the present window, and that one, began while recording

    initial begin
        file = 0;
        ended = 0;
        known = 0;
        whole = 0;
        for (index = 0; index < SOURCES; index = index + 1) begin
            total[index] = 0;
            begun[index] = 0;
            complete[index] = 0;
        end
    end

    task write_line;
        begin
            $fwrite(file, "%0d %0d %0d", ended, monitor_section, monitor_available);
            for (index = 0; index < SOURCES; index = index + 1)
                $fwrite(file, " %0d", monitor_bytes[index*BYTES_BITS +: BYTES_BITS]);
            for (index = 0; index < SOURCES; index = index + 1) $fwrite(file, " %0d", complete[index]);
            $fwrite(file, "\n");
        end
    endtask

    always @(posedge record) file = $fopen("windows.txt", "w");
    always @(negedge record) if (file != 0) $fclose(file);
    always @(posedge clk) if (!record) begin
        known = 0;
        whole = 0;
    end else begin
        if (other_beat) total[{30'd0, other_id}] = total[{30'd0, other_id}] + BEAT_BYTES;
        if (read_beat) total[OTHERS + {30'd0, read_id}] = total[OTHERS + {30'd0, read_id}] + BEAT_BYTES;
        if (write_beat) total[SOURCES-1] = total[SOURCES-1] + BEAT_BYTES;
        if (begins) begin
            for (index = 0; index < SOURCES; index = index + 1) begin
                complete[index] = total[index] - begun[index];
                begun[index] = total[index];
            end
            ended = now;
            whole = known;
            known = 1;
        end
        if (shown && whole) write_line;
    end
endmodule

`default_nettype wire
