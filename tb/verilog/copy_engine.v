// A stand-in for the NPU in the tests of the co-simulation toolchain: it copies DRAM to DRAM, and misbehaves on request.
//
// Registers (32 bits):
//   0x00 control      write 1: start; read: bit 0 busy, bit 1 done (write 2 clears it and the interrupt)
//   0x04 source       byte address        0x08 destination  byte address
//   0x0c bursts       number of bursts    0x10 beats        beats per burst, 1 to 16
//   0x14 mode         bit 0: copy, else read only; bit 1: write only the lower half of each beat
//   0x18 fault        0 none, 1 AR valid falls, 2 AR address changes, 3 wrong W last, 4 address not aligned to a burst
//   0x1c checksum     sum of the low words of all beats that were read
//   0x20 responses    bits 0-1: worst R response, bits 2-3: worst B response
//   0x24 cycles       from start to done
//   Every other address is answered with SLVERR.

`default_nettype none

module tessera #(
    parameter W = 128,
    parameter A = 40,
    parameter ID = 2,
    parameter UNITS = 10,
    parameter COUNTS = 7 * 29,
    parameter COUNT = 29
) (
    input  wire           clk,
    input  wire           rst,
    output reg            irq,
    output wire [UNITS-1:0] trace_done,
    output wire           trace_select,
    output wire [5:0]     trace_operation,
    output wire [1:0]     trace_depth,
    output wire [1:0]     trace_section,
    input  wire           monitor_valid,
    input  wire [1:0]     monitor_id,
    input  wire [7:0]     monitor_bytes,
    output wire           trace_window_begins,
    output wire           trace_window_shown,
    output wire [COUNTS-1:0] trace_window_bytes,
    output wire [COUNT-1:0] trace_window_available,
    output wire [1:0]     trace_window_section,

    input  wire [11:0]    s_axi_awaddr,
    input  wire           s_axi_awvalid,
    output wire           s_axi_awready,
    input  wire [31:0]    s_axi_wdata,
    input  wire [3:0]     s_axi_wstrb,
    input  wire           s_axi_wvalid,
    output wire           s_axi_wready,
    output reg  [1:0]     s_axi_bresp,
    output reg            s_axi_bvalid,
    input  wire           s_axi_bready,
    input  wire [11:0]    s_axi_araddr,
    input  wire           s_axi_arvalid,
    output wire           s_axi_arready,
    output reg  [31:0]    s_axi_rdata,
    output reg  [1:0]     s_axi_rresp,
    output reg            s_axi_rvalid,
    input  wire           s_axi_rready,

    output wire [ID-1:0]  m_axi_awid,
    output reg  [A-1:0]   m_axi_awaddr,
    output wire [7:0]     m_axi_awlen,
    output wire [2:0]     m_axi_awsize,
    output wire [1:0]     m_axi_awburst,
    output reg            m_axi_awvalid,
    input  wire           m_axi_awready,
    output wire [W-1:0]   m_axi_wdata,
    output wire [W/8-1:0] m_axi_wstrb,
    output wire           m_axi_wlast,
    output wire           m_axi_wvalid,
    input  wire           m_axi_wready,
    input  wire [ID-1:0]  m_axi_bid,
    input  wire [1:0]     m_axi_bresp,
    input  wire           m_axi_bvalid,
    output wire           m_axi_bready,
    output wire [ID-1:0]  m_axi_arid,
    output reg  [A-1:0]   m_axi_araddr,
    output wire [7:0]     m_axi_arlen,
    output wire [2:0]     m_axi_arsize,
    output wire [1:0]     m_axi_arburst,
    output reg            m_axi_arvalid,
    input  wire           m_axi_arready,
    input  wire [ID-1:0]  m_axi_rid,
    input  wire [W-1:0]   m_axi_rdata,
    input  wire [1:0]     m_axi_rresp,
    input  wire           m_axi_rlast,
    input  wire           m_axi_rvalid,
    output wire           m_axi_rready
);
    localparam DEPTH = 1024;  // beats that fit between reading and writing
    localparam [2:0] FAULT_AR_FALLS = 1, FAULT_AR_CHANGES = 2, FAULT_W_LAST = 3, FAULT_UNALIGNED = 4;

    assign trace_done = 0;
    assign {trace_select, trace_operation, trace_depth, trace_section} = 0;
    assign trace_window_begins = 0;
    assign trace_window_shown = 0;
    assign trace_window_bytes = 0;
    assign trace_window_available = 0;
    assign trace_window_section = 0;

    // ------------------------------------------------------------------------------------------------------ registers
    reg  [31:0] source, destination, bursts, beats, checksum, cycles;
    reg   [2:0] fault;
    reg         copy, lower_half, busy, done;
    reg   [1:0] worst_r, worst_b;

    wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
    wire read = s_axi_arvalid && !s_axi_rvalid;
    wire start = write && s_axi_awaddr == 12'h00 && s_axi_wdata[0];
    wire finished;

    assign s_axi_awready = write;
    assign s_axi_wready = write;
    assign s_axi_arready = read;

    always @(posedge clk) begin
        if (s_axi_bvalid && s_axi_bready) s_axi_bvalid <= 0;
        if (s_axi_rvalid && s_axi_rready) s_axi_rvalid <= 0;
        if (busy) cycles <= cycles + 1;
        if (write) begin
            s_axi_bvalid <= 1;
            s_axi_bresp <= s_axi_awaddr <= 12'h18 ? 2'd0 : 2'd2;
            case (s_axi_awaddr)
                12'h00: begin
                    if (s_axi_wdata[0]) busy <= 1;
                    if (s_axi_wdata[0]) cycles <= 0;
                    if (s_axi_wdata[1]) {done, irq} <= 0;
                end
                12'h04: source <= s_axi_wdata;
                12'h08: destination <= s_axi_wdata;
                12'h0c: bursts <= s_axi_wdata;
                12'h10: beats <= s_axi_wdata;
                12'h14: {lower_half, copy} <= s_axi_wdata[1:0];
                12'h18: fault <= s_axi_wdata[2:0];
            endcase
        end
        if (read) begin
            s_axi_rvalid <= 1;
            s_axi_rresp <= 0;
            case (s_axi_araddr)
                12'h00: s_axi_rdata <= {done, busy};
                12'h04: s_axi_rdata <= source;
                12'h08: s_axi_rdata <= destination;
                12'h0c: s_axi_rdata <= bursts;
                12'h10: s_axi_rdata <= beats;
                12'h14: s_axi_rdata <= {lower_half, copy};
                12'h18: s_axi_rdata <= fault;
                12'h1c: s_axi_rdata <= checksum;
                12'h20: s_axi_rdata <= {worst_b, worst_r};
                12'h24: s_axi_rdata <= cycles;
                default: begin
                    s_axi_rdata <= 0;
                    s_axi_rresp <= 2;
                end
            endcase
        end
        if (busy && finished) begin
            busy <= 0;
            {done, irq} <= 3;
        end
        if (rst) {s_axi_bvalid, s_axi_rvalid, busy, done, irq, copy, lower_half, fault, cycles} <= 0;
    end

    // -------------------------------------------------------------------------------------------------------- reading
    wire [31:0] burst_bytes = beats * (W / 8);
    reg  [31:0] ar_left, r_left, aw_left, w_left, b_left;
    reg  [31:0] reserved;  // beats asked for and not written yet
    wire        ar_taken = m_axi_arvalid && m_axi_arready;
    wire        r_taken = m_axi_rvalid && m_axi_rready;
    wire        w_taken = m_axi_wvalid && m_axi_wready;

    assign {m_axi_arid, m_axi_awid} = 0;
    assign m_axi_arlen = beats[7:0] - 8'd1;
    assign m_axi_awlen = m_axi_arlen;
    assign m_axi_arsize = $clog2(W / 8);
    assign m_axi_awsize = m_axi_arsize;
    assign m_axi_arburst = 1;
    assign m_axi_awburst = 1;
    assign m_axi_rready = 1;

    wire room = !copy || reserved + beats <= DEPTH;

    always @(posedge clk) begin
        if (ar_taken) begin
            ar_left <= ar_left - 1;
            m_axi_araddr <= m_axi_araddr + burst_bytes;
        end
        if (ar_taken || !m_axi_arvalid) m_axi_arvalid <= ar_left > (ar_taken ? 1 : 0) && room;
        else if (fault == FAULT_AR_FALLS) m_axi_arvalid <= 0;
        else if (fault == FAULT_AR_CHANGES) m_axi_araddr <= m_axi_araddr ^ 32'h100;
        if (r_taken) begin
            r_left <= r_left - 1;
            checksum <= checksum + m_axi_rdata[31:0];
            if (m_axi_rresp > worst_r) worst_r <= m_axi_rresp;
        end
        reserved <= reserved + (ar_taken && copy ? beats : 0) - (w_taken ? 1 : 0);
        if (start) begin
            ar_left <= bursts;
            r_left <= bursts * beats;
            m_axi_araddr <= source + (fault == FAULT_UNALIGNED ? W / 8 : 0);
            {checksum, worst_r, reserved} <= 0;
        end
        if (rst) {m_axi_arvalid, ar_left, r_left, reserved} <= 0;
    end

    // -------------------------------------------------------------------------------------------------------- writing
    reg  [W-1:0] buffer [0:DEPTH-1];
    reg  [$clog2(DEPTH)-1:0] first, free;
    reg  [31:0]  stored;
    reg   [7:0]  w_beat;
    wire         aw_taken = m_axi_awvalid && m_axi_awready;
    wire         b_taken = m_axi_bvalid && m_axi_bready;

    assign m_axi_wdata = buffer[first];
    assign m_axi_wstrb = {{W/16{!lower_half}}, {W/16{1'b1}}};
    assign m_axi_wlast = (w_beat == beats - 1) ^ (fault == FAULT_W_LAST);
    assign m_axi_wvalid = stored != 0;
    assign m_axi_bready = 1;
    assign finished = ar_left == 0 && r_left == 0 && b_left == 0;

    always @(posedge clk) begin
        if (r_taken && copy) begin
            buffer[free] <= m_axi_rdata;
            free <= free + 1;
        end
        if (w_taken) begin
            first <= first + 1;
            w_beat <= w_beat == beats - 1 ? 0 : w_beat + 1;
        end
        stored <= stored + (r_taken && copy ? 1 : 0) - (w_taken ? 1 : 0);
        if (aw_taken) begin
            aw_left <= aw_left - 1;
            m_axi_awaddr <= m_axi_awaddr + burst_bytes;
        end
        if (aw_taken || !m_axi_awvalid) m_axi_awvalid <= aw_left > (aw_taken ? 1 : 0);
        if (b_taken) begin
            b_left <= b_left - 1;
            if (m_axi_bresp > worst_b) worst_b <= m_axi_bresp;
        end
        if (start) begin
            aw_left <= copy ? bursts : 0;
            b_left <= copy ? bursts : 0;
            m_axi_awaddr <= destination;
            worst_b <= 0;
        end
        if (rst) {m_axi_awvalid, aw_left, b_left, stored, first, free, w_beat} <= 0;
    end
endmodule

`default_nettype wire
